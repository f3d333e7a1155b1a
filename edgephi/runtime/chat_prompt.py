"""The tokens of a conversation, in which no message can end its own turn.

A chat template puts messages between special tokens like `<|end|>`, and an engine's tokenizer turns such a
text into its token wherever it stands: whoever writes one into a message could write the rest of the
conversation as well. So where a message has one, the text is taken apart behind its first letter, and both
parts are encoded by themselves. The model reads the same letters, as ordinary tokens.

A rendered prompt here is a text with a mark wherever it is to be taken apart.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

from edgephi.errors import BadInputError
from edgephi.runtime.engines import Engine

ROLES = ("system", "user", "assistant")

# Unicode keeps these two out of all texts, for uses like this one.
_MARK = "\ufdd0\ufdd1"
# In front of a part's text, so that no tokenizer takes that for the start of a text: some put a space there.
_GUARD = "\n"


class ChatPrompts:
    """Renders and encodes conversations for one engine.

    `added_tokens` are the texts that its tokenizer turns into one token wherever they stand, with its id.
    """

    def __init__(self, engine: Engine, added_tokens: Mapping[str, int]) -> None:
        self._engine = engine
        self._special = frozenset(added_tokens.values())
        # Matches without taking up a letter, so that texts that overlap are all found.
        texts = "|".join(map(re.escape, added_tokens)) or "(?!)"
        self._places = re.compile(f"(?={texts})")
        self._guard: list[int] | None = None

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt for the answer that follows `messages`, with marks.

        Raises BadInputError for a message that is none, and for a special token that cannot be taken apart.
        """
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
        places = [match.start() + 1 for match in self._places.finditer(content)]
        if not places:
            return content
        bounds = [0, *places, len(content)]
        parts = [content[start:end] for start, end in itertools.pairwise(bounds)]
        marked = _MARK.join(parts)
        if not self._special.isdisjoint(self.encode(marked)):
            raise _not_apart(content[places[0] - 1 :])
        return marked

    def begins_special(self, text: str) -> bool:
        """Whether a special token begins a text."""
        return self._places.match(text) is not None

    def encode(self, rendered: str) -> list[int]:
        """The token ids of a rendered prompt, or of what follows one that ends before a special token."""
        first, *parts = rendered.split(_MARK)
        token_ids = self._engine.encode(first)
        for part in parts:
            token_ids += self._encode_inside(part)
        return token_ids

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
