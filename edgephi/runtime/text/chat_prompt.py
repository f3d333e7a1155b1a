"""The tokens of a conversation, in which no message can end its own turn.

A chat template puts messages between special tokens like `<|end|>`, and an engine's tokenizer turns such a
text into its token wherever it stands: whoever writes one into a message could write the rest of the
conversation as well. So where a message has one, the text is taken apart behind its first letter, and both
parts are encoded by themselves. The model reads the same letters, as ordinary tokens.

So are the texts in the schemas of tools, and in the calls of tools that a message has. Parts of a message
that are edgephi's own words (`edgephi.chat.message_text`) are left as they are.

A template may look for such a text in what was said: many leave out what a model has thought before its
answer, up to `</think>`. Where one finds another text in parts than it finds whole, the tokens that the
tokenizer does not call special stay whole: those end no turn.

Images stand between texts, which are encoded each by itself, as the published processor does; and before each
of them come the tokens that a tokenizer puts before every text, such as `<s>`, where the model wants them.

A rendered prompt here is a text with a mark wherever it is to be taken apart. All parts go through the
tokenizer in one call, with a special token between them that stands nowhere else: that takes parts apart as
well, and a call for each of ten thousand parts would take a minute with some engines.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from edgephi.chat.message_text import Own
from edgephi.errors import BadInputError
from edgephi.runtime.adapter import Engine
from edgephi.runtime.text.image_marks import holds_mark, split_at_images
from edgephi.runtime.text.prompt_bound import PromptBound

ROLES = ("system", "user", "assistant")
TOOL_ROLE = "tool"  # where the template knows tools

# Unicode keeps these two out of all texts, for uses like this one.
_MARK = "\ufdd0\ufdd1"
# In front of a part's text, so that no tokenizer takes that for the start of a text: some put a space there.
_GUARD = "\n"
_FORM = "a message is {'role': …, 'content': …}"
_DEEPEST = 64  # lists and objects inside each other, in schemas and calls


class ChatPrompts:
    """Renders and encodes conversations for one engine.

    `added_tokens` are the texts that its tokenizer turns into one token wherever they stand, with its id.
    With a `bound`, texts that cannot fit into the context are refused before the tokenizer sees them.
    `ordinary_tokens` are the texts among them of tokens that are not special; `knows_tools` says whether the
    template knows tools. Where the model `sees`, prompts may have images, and `beginning` are the tokens
    before each text that stands at the start or behind an image.
    """

    def __init__(
        self,
        engine: Engine,
        added_tokens: Mapping[str, int],
        bound: PromptBound | None = None,
        *,
        ordinary_tokens: Collection[str] = (),
        knows_tools: bool = False,
        sees: bool = False,
        beginning: Sequence[int] = (),
    ) -> None:
        self._engine = engine
        self._sees = sees
        self._beginning = beginning
        self._knows_tools = knows_tools
        self._added = added_tokens
        self._bound = bound
        self._special = frozenset(added_tokens.values())
        self._places = _places_of(added_tokens)
        self._special_places = _places_of(added_tokens.keys() - set(ordinary_tokens))
        self._has_ordinary = bool(ordinary_tokens)
        self._guard: list[int] | None = None

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None) -> str:
        """The prompt for the answer that follows `messages`, with marks. `tools` are JSON schemas.

        Raises BadInputError for a message that is none, for tools that the template does not know, and for a
        special token that cannot be taken apart; PastContextError for messages that cannot fit into the
        context.
        """
        if self._bound is not None:
            self._bound.check_messages(len(messages))
        if tools and not self._knows_tools:
            raise BadInputError(
                "expected a model whose chat template knows tools, found one that would leave them out",
                hint="describe them in the system message, in the words that the model was trained on",
            )
        rendered = self._render(messages, tools, self.marked)
        if _MARK in rendered and self._has_ordinary:
            written = self._render(messages, tools, str)
            if rendered.replace(_MARK, "") != written:
                other = self._render(messages, tools, functools.partial(_marked_at, self._special_places))
                if other.replace(_MARK, "") == written:
                    return other
        return rendered

    def _render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, mark: Callable[[str], str]
    ) -> str:
        """The prompt with whatever `mark` does to each text in it."""
        return self._engine.render_chat(
            [self._message(message, mark) for message in messages],
            _each_text(list(tools), mark) if tools else None,
        )

    def _message(self, message: Mapping[str, Any], mark: Callable[[str], str]) -> dict[str, Any]:
        """A message as the template gets it: with all that it has."""
        role = message.get("role")
        roles = (*ROLES, TOOL_ROLE) if self._knows_tools else ROLES
        if role not in roles:
            raise BadInputError(
                f"expected a message of the role {', '.join(roles[:-1])} or {roles[-1]}, found {role!r}",
                hint=_FORM,
            )
        content = message.get("content")
        others = {key: value for key, value in message.items() if key not in ("role", "content")}
        if isinstance(content, tuple):
            parts = (part.text if isinstance(part, Own) else mark(part) for part in content)
            return {"role": role, "content": "".join(parts), **_each_text(others, mark)}
        if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
            raise BadInputError(
                f"expected text as content of a message, found {type(content).__name__}", hint=_FORM
            )
        return {"role": role, "content": content and mark(content), **_each_text(others, mark)}

    def marked(self, content: str) -> str:
        """A message's text with a mark in each special token that is written in it."""
        if _MARK in content or (self._sees and holds_mark(content)):
            found = "U+FDD0 U+FDD1" if _MARK in content else "U+FDD2 or U+FDD3"
            raise BadInputError(
                f"expected text as message, found {found}, which are no characters",
                hint="remove them from the message",
            )
        if self._bound is not None:
            self._bound.check_text(content.strip())  # the template's tokens may take the space at its ends
        marked = _marked_at(self._places, content)
        if marked != content and not self._special.isdisjoint(self._encode(marked.strip())):
            raise _not_apart(content[marked.index(_MARK) - 1 :])
        return marked

    def begins_special(self, text: str) -> bool:
        """Whether a special token begins a text."""
        return self._places.match(text) is not None

    def encode(self, rendered: str, *, goes_on: bool = False) -> list[int]:
        """The token ids of a rendered prompt; those of its images are below 0.

        Where it `goes_on`, what follows a prompt that ends before a special token. Raises PastContextError
        for a text that cannot fit into the context.
        """
        if not self._sees:
            return self._encode(rendered)
        (first, *others), images = split_at_images(rendered)
        token_ids = [*(() if goes_on else self._beginning), *self._encode(first)]
        for ids, text in zip(images, others, strict=True):
            token_ids += [*ids, *self._beginning, *self._encode(text)]
        return token_ids

    def _encode(self, rendered: str) -> list[int]:
        """The token ids of a text with marks, and without images."""
        parts = rendered.split(_MARK)
        if self._bound is not None:
            self._bound.check_text(*parts)
        if len(parts) == 1:
            return self._engine.encode(rendered)
        token_ids = self._encode_together(rendered, parts)
        if token_ids is None:
            first, *others = parts
            encoded = {part: self._encode_inside(part) for part in dict.fromkeys(others)}
            token_ids = list(itertools.chain(self._engine.encode(first), *(encoded[part] for part in others)))
        return token_ids

    def _encode_together(self, rendered: str, parts: Sequence[str]) -> list[int] | None:
        """The token ids of all parts, from one call; None where they cannot be told apart."""
        text = next((text for text in self._separators if text not in rendered), None)
        if text is None:
            return None
        separator, guard = self._added[text], self._separators[text]
        token_ids = self._engine.encode((text + _GUARD).join(parts))
        bounds = [place for place, token in enumerate(token_ids) if token == separator]
        if len(bounds) != len(parts) - 1:
            return None
        found = token_ids[: bounds[0]]
        for start, end in itertools.pairwise([*bounds, len(token_ids)]):
            inside = start + 1 + len(guard)
            if token_ids[start + 1 : inside] != guard:
                return None
            found += token_ids[inside:end]
        return found

    @functools.cached_property
    def _separators(self) -> dict[str, list[int]]:
        """Special tokens that change nothing of the texts around them, and how a guard reads after them."""
        found = {}
        plain = self._engine.encode("a \n")
        for text, id_ in self._added.items():
            token_ids = self._engine.encode(f"a \n{text}{_GUARD}")
            before, guard = token_ids[: len(plain)], token_ids[len(plain) + 1 :]
            if before == plain and token_ids[len(plain) :][:1] == [id_] and guard:
                found[text] = guard
        return found

    def _encode_inside(self, text: str) -> list[int]:
        """Token ids of what stands inside a text, not at its start."""
        if self._guard is None:
            self._guard = self._engine.encode(_GUARD)
        token_ids = self._engine.encode(_GUARD + text)
        if token_ids[: len(self._guard)] != self._guard:
            raise _not_apart(text)
        return token_ids[len(self._guard) :]


def _places_of(texts: Collection[str]) -> re.Pattern[str]:
    """Matches in front of each text without taking up a letter, so that texts that overlap are all found."""
    return re.compile(f"(?={'|'.join(map(re.escape, texts)) or '(?!)'})")


def _marked_at(places: re.Pattern[str], content: str) -> str:
    bounds = [0, *(match.start() + 1 for match in places.finditer(content)), len(content)]
    return _MARK.join(content[start:end] for start, end in itertools.pairwise(bounds))


def _each_text(value: Any, mark: Callable[[str], str], depth: int = 0) -> Any:
    """A value of JSON with whatever `mark` does to each text in it. Raises BadInputError when it is none."""
    if isinstance(value, str):
        return mark(value)
    if depth < _DEEPEST:
        if isinstance(value, Mapping):
            inside = ((_each_text(key, mark, _DEEPEST), each) for key, each in value.items())
            return {key: _each_text(each, mark, depth + 1) for key, each in inside}
        if isinstance(value, list | tuple):
            return [_each_text(each, mark, depth + 1) for each in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    raise BadInputError(
        f"expected JSON of at most {_DEEPEST} levels beside the content of messages, "
        f"found {type(value).__name__}",
        hint=_FORM,
    )


def _not_apart(text: str) -> BadInputError:
    return BadInputError(
        f"expected a message without special tokens, found {text[:16]!r}",
        hint="write it in another way, with a space inside",
    )
