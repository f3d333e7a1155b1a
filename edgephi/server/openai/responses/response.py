"""A response, as a type. "edgephi" holds what is not of OpenAI's API."""

from __future__ import annotations

from typing import Any

import msgspec

from edgephi.server.engine.messages import End
from edgephi.server.openai.chat.response import TokenLogprob
from edgephi.server.openai.numbers import Numbers
from edgephi.server.openai.told_reuse import told_tokens


class OutputText(msgspec.Struct, frozen=True):
    """A text that the model wrote."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    annotations: tuple[()] = ()
    type: str = "output_text"


class OutputMessage(msgspec.Struct, frozen=True, tag_field="type", tag="message"):
    """The message that the model wrote."""

    id: str
    status: str
    content: tuple[OutputText, ...] = ()
    role: str = "assistant"


class OutputCall(msgspec.Struct, frozen=True, tag_field="type", tag="function_call"):
    """A call of a function; `arguments` are JSON text."""

    id: str
    call_id: str
    name: str
    arguments: str
    status: str


OutputItem = OutputMessage | OutputCall


class InputDetails(msgspec.Struct, frozen=True):
    """How many tokens of the input were not computed again, and how many of them all are of images."""

    cached_tokens: int
    image_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct, frozen=True):
    """There is no reasoning apart from the text."""

    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, frozen=True):
    """Numbers of tokens."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Incomplete(msgspec.Struct, frozen=True):
    """Why a response is not whole."""

    reason: str


class ModelResponse(msgspec.Struct, kw_only=True, frozen=True):
    """The response of a model, and what it was asked with."""

    id: str
    created_at: int
    model: str
    status: str
    output: tuple[OutputMessage | OutputCall, ...] = ()
    usage: ResponseUsage | None = None
    edgephi: Numbers | None = None
    completed_at: int | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    store: bool = True
    temperature: float | None = None
    text: dict[str, Any] = {}
    tool_choice: str | dict[str, Any] = "auto"
    tools: tuple[dict[str, Any], ...] = ()
    top_logprobs: int | None = None
    top_p: float | None = None
    user: str | None = None
    error: None = None
    background: bool = False
    truncation: str = "disabled"
    object: str = "response"


class DeletedResponse(msgspec.Struct, frozen=True):
    """A response that is kept no more."""

    id: str
    deleted: bool = True
    object: str = "response"


def response_usage(end: End) -> ResponseUsage:
    """The numbers of tokens of a finished answer."""
    return ResponseUsage(
        end.prompt_tokens,
        InputDetails(told_tokens(end.reused_tokens), end.image_tokens),
        end.generated_tokens,
        OutputDetails(),
        end.prompt_tokens + end.generated_tokens,
    )
