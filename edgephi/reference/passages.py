"""Passages: pieces of text that a model is shown while it is built, each read from an empty context.

A passage of edgephi's own is a file that is called by what it is: `NAME.DOMAIN.LANGUAGE.txt` is a text as it
stands, `NAME.DOMAIN.LANGUAGE.json` a conversation, `{"messages": [{"role": ..., "content": ...}, ...]}`. How
a conversation is written is the checkpoint's business: it becomes text by the checkpoint's chat template.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable

Message = dict[str, str]
"""A turn of a conversation as chat templates take it: its "role" and its "content"."""

Encode = Callable[[str], Sequence[int]]
"""Text to token ids: special tokens that are written in the text become theirs, none are added."""

Render = Callable[[Sequence[Message]], str]
"""A whole conversation to text, in the checkpoint's own form, without the beginning of another answer."""

DOMAINS = ("chat", "code", "data", "device", "instructions", "numbers", "prose")
"""What the passages of edgephi's own are: conversations; programs; JSON and tables; commands to a home
device; steps to follow; reckoning in words and figures; anything else that people write."""


@dataclass(frozen=True)
class Passage:
    """One piece of text: a `name` that says what it is, its `language` (ISO 639-1), and its domain."""

    name: str
    language: str
    domain: str
    text: str


@dataclass(frozen=True)
class StoredConversation:
    """A passage that is not text yet, for it is written as each checkpoint writes conversations."""

    name: str
    language: str
    domain: str
    messages: tuple[Message, ...]


StoredPassage = Passage | StoredConversation
"""A passage as it is kept."""


@dataclass(frozen=True)
class TokenPassage:
    """The beginning of a passage as a model reads it: `ids`, token ids from an empty context on."""

    name: str
    language: str
    domain: str
    ids: tuple[int, ...]


def shipped_passages(folder: Traversable) -> tuple[StoredPassage, ...]:
    """All passages in a folder of the package, in order of domain, language and name."""
    found = (_stored(file) for file in folder.iterdir() if file.name.endswith((".txt", ".json")))
    return tuple(sorted(found, key=lambda passage: (passage.domain, passage.language, passage.name)))


def in_words(stored: StoredPassage, render: Render) -> Passage:
    """A passage as text."""
    if isinstance(stored, Passage):
        return stored
    return Passage(stored.name, stored.language, stored.domain, render(stored.messages))


def in_tokens(
    stored: StoredPassage, encode: Encode, render: Render, *, most: int | None = None
) -> TokenPassage:
    """A passage as token ids: the first `most` of them, or all."""
    ids = tuple(encode(in_words(stored, render).text)[:most])
    return TokenPassage(stored.name, stored.language, stored.domain, ids)


def evenly_spaced(count: int, total: int) -> list[int]:
    """`count` of the places 0, 1, ... `total` - 1, at most all, as far apart as can be, in order.

    Of passages in order of their domains it takes from each domain about as many as it has a share of them.
    """
    count = min(count, total)
    return [(2 * place + 1) * total // (2 * count) for place in range(count)]


def _stored(file: Traversable) -> StoredPassage:
    name, domain, language, kind = file.name.split(".")
    # Bytes, so that no platform translates the line ends.
    text = file.read_bytes().decode()
    if kind == "txt":
        return Passage(name, language, domain, text)
    return StoredConversation(name, language, domain, tuple(json.loads(text)["messages"]))
