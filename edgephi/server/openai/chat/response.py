"""The response to a chat, and the chunks of its stream, as types."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from edgephi.server.openai.numbers import Numbers, Usage


class Likely(msgspec.Struct, frozen=True):
    """A token that could have come."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token that came, and the most likely ones at its place."""

    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: tuple[Likely, ...]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities of a chat's answer."""

    content: tuple[TokenLogprob, ...]
    refusal: None = None


class CalledFunction(msgspec.Struct, frozen=True, omit_defaults=True):
    """The function of a call, or a piece of its arguments, which are JSON text."""

    arguments: str
    name: str | None = None


class Call(msgspec.Struct, frozen=True):
    """A call of a function."""

    id: str
    function: CalledFunction
    type: str = "function"


class AnswerMessage(msgspec.Struct, frozen=True):
    """The answer of a chat. `content` is null where there are calls alone."""

    content: str | None
    role: str = "assistant"
    refusal: None = None
    tool_calls: tuple[Call, ...] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    """The one answer."""

    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    index: int = 0


class ChatCompletion(msgspec.Struct, frozen=True):
    """The response to a chat."""

    id: str
    created: int
    model: str
    choices: tuple[ChatChoice, ...]
    usage: Usage
    edgephi: Numbers
    object: str = "chat.completion"
    system_fingerprint: str | None = None


class CallDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to the call number `index`."""

    function: CalledFunction
    index: int
    id: str | None = None
    type: str | None = None


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to the answer."""

    role: str | None = None
    content: str | None = None
    tool_calls: tuple[CallDelta, ...] = ()
    function_call: CalledFunction | None = None


class DeltaChoice(msgspec.Struct, frozen=True):
    """The one answer, a piece of it."""

    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    index: int = 0


class ChatChunk(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event of a chat's stream. The one with the finish reason has `edgephi`, the last one `usage`."""

    id: str
    created: int
    model: str
    choices: tuple[DeltaChoice, ...]
    object: str
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    edgephi: Numbers | None = None
