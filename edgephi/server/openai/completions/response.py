"""The response to a completion, and the events of its stream, as types."""

from __future__ import annotations

import msgspec

from edgephi.server.openai.numbers import Numbers, Usage


class TextLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities of a completion, one item a token in each list.

    Those of a text's first token are null. Among the most likely ones is always the token that is there.
    """

    tokens: tuple[str, ...]
    token_logprobs: tuple[float | None, ...]
    top_logprobs: tuple[dict[str, float] | None, ...]
    text_offset: tuple[int, ...]


class TextChoice(msgspec.Struct, frozen=True):
    """One text's continuation, or a piece of it; with `echo` behind the text itself."""

    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: str | None = None
    index: int = 0


class TextCompletion(msgspec.Struct, frozen=True, omit_defaults=True):
    """The response to a completion, or an event of its stream."""

    id: str
    created: int
    model: str
    choices: tuple[TextChoice, ...]
    object: str
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    edgephi: Numbers | None = None
