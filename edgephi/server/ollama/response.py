"""The answers of Ollama's API, as types; the same ones are the lines of a stream. Times in nanoseconds."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from edgephi.server.engine.messages import End

OLLAMA = "/api/"
"""What the paths of this API begin with."""

_NANOSECONDS = 10**9


class OllamaError(msgspec.Struct, frozen=True):
    """The body of every response that is not a success, and the last line of a stream that breaks off."""

    error: str


class LikelyToken(msgspec.Struct, frozen=True):
    """A token that could have come."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


class ScoredToken(msgspec.Struct, frozen=True):
    """A token that came, and the most likely ones at its place."""

    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: tuple[LikelyToken, ...]


class UsedFunction(msgspec.Struct, frozen=True):
    """The function of a call, with its arguments as an object."""

    index: int
    name: str
    arguments: Any


class UsedTool(msgspec.Struct, frozen=True):
    """A call of a function."""

    id: str
    function: UsedFunction


class OllamaAnswer(msgspec.Struct, frozen=True):
    """The message of a chat's answer, or what a line adds to it."""

    content: str
    role: str = "assistant"
    tool_calls: tuple[UsedTool, ...] | UnsetType = UNSET


class AnswerNumbers(msgspec.Struct, frozen=True):
    """How long an answer took, and its tokens."""

    total_duration: int
    load_duration: int
    prompt_eval_count: int
    prompt_eval_duration: int
    eval_count: int
    eval_duration: int


class AnswerLine(msgspec.Struct, kw_only=True, frozen=True):
    """What an answer or a line of it has beside its words. The last one is `done`, and has numbers."""

    model: str
    created_at: str
    done: bool
    done_reason: str | UnsetType = UNSET
    logprobs: tuple[ScoredToken, ...] | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class OllamaChatResponse(AnswerLine, kw_only=True, frozen=True):
    """A chat's answer, or a line of it."""

    message: OllamaAnswer


class GenerateResponse(AnswerLine, kw_only=True, frozen=True):
    """A prompt's answer, or a line of it."""

    response: str


def answer_numbers(end: End) -> AnswerNumbers:
    """The numbers of a finished answer."""
    decode = end.generated_tokens / end.decode_tokens_per_second if end.decode_tokens_per_second else 0.0
    return AnswerNumbers(
        total_duration=int(end.engine_seconds * _NANOSECONDS),
        load_duration=0,
        prompt_eval_count=end.prompt_tokens,
        prompt_eval_duration=int(end.first_token_seconds * _NANOSECONDS),
        eval_count=end.generated_tokens,
        eval_duration=int(decode * _NANOSECONDS),
    )
