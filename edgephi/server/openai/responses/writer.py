"""How a response is written: as events that build it, or whole, which is what they have built."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec

from edgephi.server.engine.messages import CallPart, End, Piece, Score
from edgephi.server.openai.chat.response import Likely, TokenLogprob
from edgephi.server.openai.numbers import finish_reason, numbers
from edgephi.server.openai.responses.events import (
    ArgumentsDelta,
    ArgumentsDone,
    ItemEvent,
    PartEvent,
    ResponseEvent,
    StreamError,
    TextDelta,
    TextDone,
)
from edgephi.server.openai.responses.response import (
    Incomplete,
    ModelResponse,
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputText,
    response_usage,
)
from edgephi.server.refusal import Refusal
from edgephi.server.writer import Said

_encode = msgspec.json.Encoder().encode
_GOING_ON, _WHOLE, _CUT_OFF = "in_progress", "completed", "incomplete"


class NamedEvents:
    """Server-sent events that have a name each, that of their type."""

    content_type = "text/event-stream; charset=utf-8"
    end = b""

    def framed(self, chunk: msgspec.Struct) -> bytes:
        """See StreamForm."""
        name: str = cast("Any", chunk).type
        return b"event: " + name.encode() + b"\ndata: " + _encode(chunk) + b"\n\n"

    def progress(self, done: int, total: int) -> bytes:
        """See StreamForm: a comment."""
        return f": prefill {done}/{total}\n\n".encode()


class ResponseWriter:
    """One response, which begins as `response` and is told to `on_end` when it is whole.

    A message is opened when there is a text that says something: some models write white space before calls.
    """

    form = NamedEvents()

    def __init__(
        self,
        response: ModelResponse,
        *,
        context: int,
        scored: bool,
        on_end: Callable[[ModelResponse], None],
    ) -> None:
        self._response = response
        self._context = context
        self._scored = scored
        self._on_end = on_end
        self._number = -1
        self._items: list[OutputItem] = []
        self._text = ""  # of the message that is open, or waits to be
        self._logprobs: list[TokenLogprob] = []
        self._is_open = False  # the last item
        self._calls = 0

    def whole(self, said: Sequence[Said], end: End) -> ModelResponse:
        """See Writer."""
        for each in said:
            self.chunks(each)
        self.closing(end)
        return self._response

    def opening(self) -> list[msgspec.Struct]:
        """See Writer."""
        return [
            ResponseEvent(kind, self._next(), self._response)
            for kind in ("response.created", "response.in_progress")
        ]

    def chunks(self, said: Said) -> list[msgspec.Struct]:
        """See Writer."""
        if not isinstance(said, Piece):
            return []
        events = self._more_text(said) if said.text or said.scores else []
        for call in said.calls:
            events += self._more_of_call(call)
        return events

    def closing(self, end: End) -> list[msgspec.Struct]:
        """See Writer."""
        is_whole = finish_reason(end) != "length"
        events: list[msgspec.Struct] = []
        if not self._items:
            events += self._open_message()
        if self._calls:
            events += self._close_call(_WHOLE if end.tool_calls == self._calls else _CUT_OFF)
        else:
            events += self._close_message(_WHOLE if is_whole else _CUT_OFF)
        self._response = msgspec.structs.replace(
            self._response,
            status=_WHOLE if is_whole else _CUT_OFF,
            output=tuple(self._items),
            usage=response_usage(end),
            edgephi=numbers(end, self._context),
            completed_at=int(time.time()) if is_whole else None,
            incomplete_details=None if is_whole else Incomplete("max_output_tokens"),
        )
        self._on_end(self._response)
        kind = "response.completed" if is_whole else "response.incomplete"
        return [*events, ResponseEvent(kind, self._next(), self._response)]

    def broken(self, refusal: Refusal) -> msgspec.Struct:
        """See Writer."""
        error = refusal.error.error
        return StreamError(self._next(), error.message, error.code, error.param)

    def _more_text(self, piece: Piece) -> list[msgspec.Struct]:
        text = piece.text
        logprobs = tuple(map(_logprob, piece.scores)) if self._scored else ()
        if not self._is_open:
            self._text += text
            self._logprobs += logprobs
            if not self._text.strip():
                return []
            events, text, logprobs = self._open_message(), self._text, tuple(self._logprobs)
        else:
            events = []
            self._text += text
            self._logprobs += logprobs
        place = len(self._items) - 1
        events.append(TextDelta(self._next(), self._items[place].id, place, text, logprobs))
        return events

    def _open_message(self) -> list[msgspec.Struct]:
        item = OutputMessage(_id("msg"), _GOING_ON)
        place = len(self._items)
        self._items.append(item)
        self._is_open = True
        return [
            ItemEvent("response.output_item.added", self._next(), place, item),
            PartEvent("response.content_part.added", self._next(), item.id, place, OutputText("")),
        ]

    def _close_message(self, status: str) -> list[msgspec.Struct]:
        if not self._is_open:
            return []
        self._is_open = False
        place = len(self._items) - 1
        part = OutputText(self._text, tuple(self._logprobs))
        item = OutputMessage(self._items[place].id, status, (part,))
        self._items[place] = item
        return [
            TextDone(self._next(), item.id, place, part.text, part.logprobs),
            PartEvent("response.content_part.done", self._next(), item.id, place, part),
            ItemEvent("response.output_item.done", self._next(), place, item),
        ]

    def _more_of_call(self, part: CallPart) -> list[msgspec.Struct]:
        """Open a call when its first part comes, after what was open before it."""
        events: list[msgspec.Struct] = []
        if part.place == self._calls:
            events += self._close_call(_WHOLE) if self._calls else self._close_message(_WHOLE)
            self._calls += 1
            item = OutputCall(_id("fc"), part.id or _id("call"), part.name, "", _GOING_ON)
            self._items.append(item)
            place = len(self._items) - 1
            events.append(ItemEvent("response.output_item.added", self._next(), place, item))
        place = len(self._items) - 1
        call = self._items[place]
        if isinstance(call, OutputCall) and part.arguments:
            self._items[place] = msgspec.structs.replace(call, arguments=call.arguments + part.arguments)
            events.append(ArgumentsDelta(self._next(), call.id, place, part.arguments))
        return events

    def _close_call(self, status: str) -> list[msgspec.Struct]:
        place = len(self._items) - 1
        call = self._items[place]
        if not isinstance(call, OutputCall):
            return []
        self._items[place] = call = msgspec.structs.replace(call, status=status)
        return [
            ArgumentsDone(self._next(), call.id, place, call.arguments, call.name),
            ItemEvent("response.output_item.done", self._next(), place, call),
        ]

    def _next(self) -> int:
        """The number of the next event."""
        self._number += 1
        return self._number


def response_id() -> str:
    """The id of a new response, which nobody can guess."""
    return _id("resp")


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def _logprob(score: Score) -> TokenLogprob:
    return TokenLogprob(
        score.text,
        score.logprob,
        score.bytes,
        tuple(Likely(each.text, each.logprob, each.bytes) for each in score.alternatives),
    )
