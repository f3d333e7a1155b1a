"""The numbers of an answer: of tokens, and how fast it came. "edgephi" holds what is not of OpenAI's API."""

from __future__ import annotations

import msgspec

from edgephi.server.engine.messages import End, Finished
from edgephi.server.openai.told_reuse import told_speed, told_tokens


class PromptTokens(msgspec.Struct, frozen=True):
    """How many tokens of the prompt were not computed again, and how many of them all are of images."""

    cached_tokens: int
    image_tokens: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens


class Numbers(msgspec.Struct, frozen=True):
    """How fast the answer came: seconds, tokens per second, tokens."""

    first_token_seconds: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int
    context: int


def usage(end: End) -> Usage:
    """The numbers of tokens of a finished answer."""
    return Usage(
        end.prompt_tokens,
        end.generated_tokens,
        end.prompt_tokens + end.generated_tokens,
        PromptTokens(told_tokens(end.reused_tokens), end.image_tokens),
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


def finish_reason(end: End | Finished) -> str:
    """Why an answer ended, in the API's words: the context's end is a length too."""
    return end.stop_reason if end.stop_reason in ("stop", "tool_calls") else "length"
