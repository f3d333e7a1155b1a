"""The events of a response's stream, as types. Each says its `type`, and its number in the stream."""

from __future__ import annotations

import msgspec

from edgephi.server.openai.chat.response import TokenLogprob
from edgephi.server.openai.responses.response import ModelResponse, OutputCall, OutputMessage, OutputText


class ResponseEvent(msgspec.Struct, frozen=True):
    """The whole response as it is: "response.created", ".in_progress", ".completed" or ".incomplete"."""

    type: str
    sequence_number: int
    response: ModelResponse


class ItemEvent(msgspec.Struct, frozen=True):
    """An item begins or is done: "response.output_item.added" or ".done"."""

    type: str
    sequence_number: int
    output_index: int
    item: OutputMessage | OutputCall


class PartEvent(msgspec.Struct, frozen=True):
    """The text of a message begins or is done: "response.content_part.added" or ".done"."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    part: OutputText
    content_index: int = 0


class TextDelta(msgspec.Struct, frozen=True):
    """More of a text."""

    sequence_number: int
    item_id: str
    output_index: int
    delta: str
    logprobs: tuple[TokenLogprob, ...] = ()
    content_index: int = 0
    type: str = "response.output_text.delta"


class TextDone(msgspec.Struct, frozen=True):
    """A text is whole."""

    sequence_number: int
    item_id: str
    output_index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    content_index: int = 0
    type: str = "response.output_text.done"


class ArgumentsDelta(msgspec.Struct, frozen=True):
    """More of a call's arguments."""

    sequence_number: int
    item_id: str
    output_index: int
    delta: str
    type: str = "response.function_call_arguments.delta"


class ArgumentsDone(msgspec.Struct, frozen=True):
    """A call's arguments are whole."""

    sequence_number: int
    item_id: str
    output_index: int
    arguments: str
    name: str
    type: str = "response.function_call_arguments.done"


class StreamError(msgspec.Struct, frozen=True):
    """The stream breaks off."""

    sequence_number: int
    message: str
    code: str | None
    param: str | None
    type: str = "error"
