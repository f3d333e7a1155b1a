"""The tokens of a conversation, in which no message can end its own turn.

A chat template puts messages between special tokens like `<|end|>`, and an engine's tokenizer turns such a
text into its token wherever it stands: whoever writes one into a message could write the rest of the
conversation as well. So where a message has one, the text is taken apart behind its first letter, and both
parts are encoded by themselves. The model reads the same letters, as ordinary tokens.

A rendered prompt here is a text with a mark wherever it is to be taken apart. All parts go through the
tokenizer in one call, with a special token between them that stands nowhere else: that takes parts apart as
well, and a call for each of ten thousand parts would take a minute with some engines.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping, Sequence

from edgephi.errors import BadInputError
from edgephi.runtime.adapter import Engine
from edgephi.runtime.text.prompt_bound import PromptBound

ROLES = ("system", "user", "assistant")

# Unicode keeps these two out of all texts, for uses like this one.
_MARK = "\ufdd0\ufdd1"
# In front of a part's text, so that no tokenizer takes that for the start of a text: some put a space there.
_GUARD = "\n"


class ChatPrompts:
    """Renders and encodes conversations for one engine.

    `added_tokens` are the texts that its tokenizer turns into one token wherever they stand, with its id.
    With a `bound`, texts that cannot fit into the context are refused before the tokenizer sees them.
    """

    def __init__(
        self, engine: Engine, added_tokens: Mapping[str, int], bound: PromptBound | None = None
    ) -> None:
        self._engine = engine
        self._added = added_tokens
        self._bound = bound
        self._special = frozenset(added_tokens.values())
        # Matches without taking up a letter, so that texts that overlap are all found.
        texts = "|".join(map(re.escape, added_tokens)) or "(?!)"
        self._places = re.compile(f"(?={texts})")
        self._guard: list[int] | None = None

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt for the answer that follows `messages`, with marks.

        Raises BadInputError for a message that is none, and for a special token that cannot be taken apart;
        PastContextError for messages that cannot fit into the context.
        """
        if self._bound is not None:
            self._bound.check_messages(len(messages))
        return self._engine.render_chat(
            [{"role": _role(message), "content": self.marked(_content(message))} for message in messages]
        )

    def marked(self, content: str) -> str:
        """A message's text with a mark in each special token that is written in it."""
        if _MARK in content:
            raise BadInputError(
                "expected text as message, found U+FDD0 U+FDD1, which are no characters",
                hint="remove them from the message",
            )
        if self._bound is not None:
            self._bound.check_text(content.strip())  # the template's tokens may take the space at its ends
        places = [match.start() + 1 for match in self._places.finditer(content)]
        if not places:
            return content
        bounds = [0, *places, len(content)]
        parts = [content[start:end] for start, end in itertools.pairwise(bounds)]
        marked = _MARK.join(parts)
        if not self._special.isdisjoint(self.encode(marked.strip())):
            raise _not_apart(content[places[0] - 1 :])
        return marked

    def begins_special(self, text: str) -> bool:
        """Whether a special token begins a text."""
        return self._places.match(text) is not None

    def encode(self, rendered: str) -> list[int]:
        """The token ids of a rendered prompt, or of what follows one that ends before a special token.

        Raises PastContextError for a text that cannot fit into the context.
        """
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


def _role(message: Mapping[str, str]) -> str:
    role = message.get("role")
    if role not in ROLES:
        raise BadInputError(
            f"expected a message of the role {', '.join(ROLES[:-1])} or {ROLES[-1]}, found {role!r}",
            hint="a message is {'role': …, 'content': …}",
        )
    return role


def _content(message: Mapping[str, str]) -> str:
    content: object = message.get("content")
    if not isinstance(content, str):
        raise BadInputError(
            f"expected text as content of a message, found {type(content).__name__}",
            hint="a message is {'role': …, 'content': …}",
        )
    return content


def _not_apart(text: str) -> BadInputError:
    return BadInputError(
        f"expected a message without special tokens, found {text[:16]!r}",
        hint="write it in another way, with a space inside",
    )
