"""The responses of OpenAI's API, as types. "edgephi" holds what is not of that API."""

from __future__ import annotations

import msgspec

from edgephi.server.engine.messages import End
from edgephi.server.openai.told_reuse import told_speed, told_tokens


class CachedTokens(msgspec.Struct, frozen=True):
    """How many tokens of the prompt were not computed again."""

    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Numbers(msgspec.Struct, frozen=True):
    """How fast the answer came: seconds, tokens per second, tokens."""

    first_token_seconds: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int
    context: int


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


class TextLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities of a completion, one item a token in each list."""

    tokens: tuple[str, ...]
    token_logprobs: tuple[float, ...]
    top_logprobs: tuple[dict[str, float], ...]
    text_offset: tuple[int, ...]


class AnswerMessage(msgspec.Struct, frozen=True):
    """The answer of a chat."""

    content: str
    role: str = "assistant"
    refusal: None = None


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


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to the answer."""

    role: str | None = None
    content: str | None = None


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


class TextChoice(msgspec.Struct, frozen=True):
    """The one continuation, or a piece of it."""

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


class ServedFacts(msgspec.Struct, frozen=True):
    """What is not of OpenAI's API: `context` in tokens, `engine` with its version, `parameters` in all."""

    context: int
    engine: str
    provider: str
    parameters: int
    bundle: str


class Model(msgspec.Struct, frozen=True):
    """A model that can be asked."""

    id: str
    created: int
    edgephi: ServedFacts
    object: str = "model"
    owned_by: str = "edgephi"


class ModelList(msgspec.Struct, frozen=True):
    """The bundle's model, and it with each of its adapters."""

    data: tuple[Model, ...]
    object: str = "list"


class Health(msgspec.Struct, frozen=True):
    """`status`: "ready", "starting", "restarting" or "stopping"; `waiting`: requests in the queue.

    `compiling`: JSON schemas that are tried before their requests join the queue.
    """

    status: str
    waiting: int
    compiling: int
    restarts: int


def usage(end: End) -> Usage:
    """The numbers of tokens of a finished answer."""
    return Usage(
        end.prompt_tokens,
        end.generated_tokens,
        end.prompt_tokens + end.generated_tokens,
        CachedTokens(told_tokens(end.reused_tokens)),
    )


def numbers(end: End, context: int) -> Numbers:
    """The speeds of a finished answer."""
    return Numbers(
        end.first_token_seconds,
        told_speed(end.prefill_tokens_per_second),
        end.decode_tokens_per_second,
        end.prompt_tokens,
        told_tokens(end.reused_tokens),
        end.generated_tokens,
        context,
    )


def finish_reason(end: End) -> str:
    """Why an answer ended, in the API's words: the context's end is a length too."""
    return "stop" if end.stop_reason == "stop" else "length"
