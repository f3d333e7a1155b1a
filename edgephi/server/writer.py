"""How an answer is written: whole, or as a stream of chunks in one of several forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from edgephi.server.engine.messages import Echo, End, Finished, Piece
from edgephi.server.refusal import Refusal

Said = Echo | Piece | Finished

_encode = msgspec.json.Encoder().encode


class StreamForm(Protocol):
    """How chunks become the bytes of a stream. `end` closes one that did not break off."""

    content_type: str
    end: bytes

    def framed(self, chunk: msgspec.Struct) -> bytes:
        """One chunk."""

    def progress(self, done: int, total: int) -> bytes:
        """That so many of the prompt's tokens are computed, for whoever wants to see a sign; or nothing."""


class Writer(Protocol):
    """One answer's form."""

    @property
    def form(self) -> StreamForm:
        """That of its stream."""

    def whole(self, said: Sequence[Said], end: End) -> msgspec.Struct:
        """The response that is not streamed."""

    def opening(self) -> list[msgspec.Struct]:
        """The first chunks of a stream."""

    def chunks(self, said: Said) -> list[msgspec.Struct]:
        """The chunks of what the engine has said."""

    def closing(self, end: End) -> list[msgspec.Struct]:
        """The last chunks of a stream."""

    def broken(self, refusal: Refusal) -> msgspec.Struct:
        """The last chunk of a stream that breaks off."""


class ServerSentEvents:
    """Events of data, as HTML has them, and OpenAI's end of them."""

    content_type = "text/event-stream; charset=utf-8"
    end = b"data: [DONE]\n\n"

    def framed(self, chunk: msgspec.Struct) -> bytes:
        """See StreamForm."""
        return b"data: " + _encode(chunk) + b"\n\n"

    def progress(self, done: int, total: int) -> bytes:
        """A comment: clients skip it, and what stands between us sees that somebody is there."""
        return f": prefill {done}/{total}\n\n".encode()


class WritesEvents:
    """What the writers of OpenAI's older endpoints have in common."""

    form = ServerSentEvents()

    def broken(self, refusal: Refusal) -> msgspec.Struct:
        """See Writer."""
        return refusal.error
