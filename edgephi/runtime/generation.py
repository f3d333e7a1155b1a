"""What comes out of answering: pieces of the answer, and its numbers when it has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgephi.chat.tools.call_reader import CallPiece, ToolCall
from edgephi.runtime.text.scores import TokenScore

StopReason = Literal["stop", "tool_calls", "length", "context", "closed"]


@dataclass(frozen=True)
class Generation:
    """A finished answer. Times in seconds, speeds in tokens per second.

    `stop_reason`: "stop" at a stop token, a stop text or the end of JSON that is complete, "tool_calls" where
    that ends calls of functions, "length" after `max_tokens`, "context" when the bundle's context is full,
    "closed" when the answer was closed before its end. `generated_tokens` does not count the stop token.
    `reused_tokens` of the prompt were in a KV cache already. `first_token_seconds` runs from the prompt's
    text to the first token, tokenisation and prefill included; loading the model does not count.
    `prefill_tokens_per_second` is that of the tokens that were computed. A speed that cannot be told is 0.
    `scores` are there when they were asked for, and `stop_score`, that of a stop token at the end.
    `tool_calls` are those that are whole, and no part of `text`: one that was cut off is in neither.
    `image_tokens` of the prompt are those of images, and `image_seconds` went by for computing those that
    were not known yet: a part of `first_token_seconds`, and none of the prefill.
    """

    text: str
    stop_reason: StopReason
    prompt_tokens: int
    generated_tokens: int
    first_token_seconds: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    reused_tokens: int = 0
    scores: tuple[TokenScore, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    stop_score: TokenScore | None = None
    image_tokens: int = 0
    image_seconds: float = 0.0


@dataclass(frozen=True)
class Piece:
    """Text of an answer that is complete, and the scores of its tokens where they were asked for.

    A token belongs to the piece in which its first letter is. The last piece may have scores and no text.
    Where functions are called, pieces have more of the `calls` instead.
    """

    text: str
    scores: tuple[TokenScore, ...] = ()
    calls: tuple[CallPiece, ...] = ()
