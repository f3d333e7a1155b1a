"""An HTTP connection with the limits that uvicorn leaves to others: on heads, on silence, on their number.

A client may close its half of the connection behind a request (`shutdown(SHUT_WR)`) and read on. From a
client that has gone away the same comes, and only what is sent to it brings the difference out: see
`_look_after_half`.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import socket
import sys
import time
from typing import Any, cast

import h11
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from edgephi.server.http.early_answers import EarlyAnswerConnection, LingeringTransport
from edgephi.server.http.room import Awaited, Room
from edgephi.server.http.strict_head import MOST_HEAD_BYTES, RefusedHead
from edgephi.server.refusal import Refusal

KEEP_ALIVE_SECONDS = 75
_HEAD_SECONDS = 20.0  # for the head of a request, and for the rest of a body that nobody wants
_SILENT_READER_SECONDS = 30.0  # a client that has taken nothing for so long is gone
_LOOK_SECONDS = 0.02  # between two looks whether a client that sends no more has gone away
_LOOKS_A_WORD = 5  # and something is sent to it, that its kernel answers when it has
_READ_BYTES = 64 << 10  # at once: chunks of a byte each must not keep others waiting

# Any client of HTTP/1.1 passes over it (RFC 9110, 15.2); the kernel of one that is gone answers with a reset.
_STILL_THERE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(H11Protocol):
    """One client. `scope["state"]["connection"]` of its requests. `room` is where it needs a place."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        room: Room | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, "connection": self}, _loop)
        self.conn = EarlyAnswerConnection(h11.SERVER, MOST_HEAD_BYTES)
        self._room = Room() if room is None else room
        self._late: asyncio.TimerHandle | None = None
        self._silent: asyncio.TimerHandle | None = None
        self._blocked_since: float | None = None
        self._blocked_before = 0.0
        self._is_over = False  # all that the client is told has been said
        self._half_closed = False

    @property
    def is_blocked(self) -> bool:
        """Whether the client takes less than it is sent."""
        return self._blocked_since is not None

    def blocked_seconds(self) -> float:
        """For how long the client took less than it was sent, all in all."""
        now = 0.0 if self._blocked_since is None else time.monotonic() - self._blocked_since
        return self._blocked_before + now

    def abort(self) -> None:
        """Close at once; what is not sent yet never will be."""
        self.transport.abort()

    def make_room(self) -> None:
        """Close, because another one needs the place."""
        if self.transport.get_write_buffer_size() or self.transport.is_closing():
            self.abort()
        elif self.cycle is not None and (self.conn.their_state is h11.IDLE or self.cycle.response_complete):
            self.transport.close()  # it has its answer, and needs no reason
        else:
            self._end_with(Refusal(408, "expected a whole request sooner: others need the place"))

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the client when there is no room."""
        self._lingering = LingeringTransport(transport, self._still_sends, self._note_closing)
        super().connection_made(cast("asyncio.Transport", self._lingering))
        # Without this the kernel keeps a token back until the client has confirmed the last one, for 40 ms.
        # asyncio sets it too, but not on all sockets that it is given.
        with contextlib.suppress(OSError):  # it is gone already
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(transport, "max_size"):  # asyncio's own transports have it, and read so much at once
            transport.max_size = _READ_BYTES
        if self._room.enter(self):
            self._expect_rest()
        else:
            self._end_with(Refusal(429, f"there are {self._room.most} connections already", retry_after=1))

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        self._room.leave(self)
        self._lingering.stop()
        for timer in (self._late, self._silent):
            if timer is not None:
                timer.cancel()
        self._note_unblocked()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Give the client some time to send what it has begun."""
        if self._lingering.lingers:
            self._lingering.drop(data)
        if self._is_over:
            return
        super().data_received(data)
        if not self._is_over and not self.transport.is_closing():
            self._expect_rest()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more: what it has asked is answered before the connection is closed.

        Returns whether asyncio shall leave it open.
        """
        if self._is_over:
            return False
        self._unset_keepalive_if_required()
        self._half_closed = True
        self.conn.receive_data(b"")
        self.handle_events()  # says so when a request is not whole
        if self._is_over or self.cycle is None or self.cycle.response_complete:
            return False
        self._expect_rest()
        self.loop.call_later(_LOOK_SECONDS, self._look_after_half, 1)
        return True

    def shutdown(self) -> None:
        """The server ends: whole requests are answered, and then the connection is closed."""
        if not self._is_over:
            if self.conn.their_state is h11.SEND_BODY and not self.cycle.response_started:
                self._end_with(Refusal(503, "the server is stopping", code="stopping", retry_after=5))
            else:
                super().shutdown()
        self._lingering.hurry()

    def on_response_complete(self) -> None:
        """The next request may have begun already, or this one may not have ended yet."""
        super().on_response_complete()
        if self._half_closed and self.cycle.response_complete:
            self.transport.close()
        if not self._is_over and not self.transport.is_closing():
            self._expect_rest()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Say it as an error object. uvicorn calls this while it handles what h11 has raised."""
        cause = sys.exc_info()[1]
        if isinstance(cause, RefusedHead):
            self._end_with(cause.refusal)
        elif self._half_closed:
            self._end_with(
                Refusal(400, "expected a whole request, found the end of the connection within it")
            )
        else:
            self._end_with(Refusal(400, "expected an HTTP request, found something else"))

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        super().pause_writing()
        self._blocked_since = time.monotonic()
        self._note_awaited()
        self._watch_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self._note_unblocked()
        self._note_awaited()
        if self._silent is not None and not self.transport.is_closing():
            self._silent.cancel()
            self._silent = None

    def _note_unblocked(self) -> None:
        if self._blocked_since is not None:
            self._blocked_before += time.monotonic() - self._blocked_since
            self._blocked_since = None

    def _watch_reader(self, unsent: int) -> None:
        """Close the connection unless the client takes something in time."""

        def look() -> None:
            left = self.transport.get_write_buffer_size()
            if left >= unsent:
                self.abort()
            elif left:
                self._watch_reader(left)

        if self._silent is not None:
            self._silent.cancel()
        self._silent = self.loop.call_later(_SILENT_READER_SECONDS, look)

    def _still_sends(self) -> bool:
        """Whether the client may have sent something that nobody has read, or be about to."""
        is_within = self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0] != b""
        return is_within and not self._half_closed

    def _note_closing(self, lingers: bool) -> None:
        """All is said; the client may have to read it still."""
        self._is_over = True
        if self._late is not None:
            self._late.cancel()
            self._late = None
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            self._watch_reader(unsent)
        if lingers:
            self._room.refuse(self)
        elif unsent:
            self._room.awaits(self, Awaited.READING)

    def _expect_rest(self) -> None:
        """Set a clock while a head is awaited, or the rest of a body after its response; else stop it."""
        self._note_awaited()
        state = self.conn.their_state
        waiting = (state is h11.IDLE and self.timeout_keep_alive_task is None) or (
            state is h11.SEND_BODY and self.conn.our_state is h11.DONE
        )
        if waiting and self._late is None:
            self._late = self.loop.call_later(_HEAD_SECONDS, self._too_late)
        elif not waiting and self._late is not None:
            self._late.cancel()
            self._late = None

    def _note_awaited(self) -> None:
        """Tell the room what the client lets us wait for."""
        if self._is_over:
            return
        awaited = {h11.IDLE: Awaited.HEAD, h11.SEND_BODY: Awaited.BODY}.get(self.conn.their_state)
        self._room.awaits(self, Awaited.READING if self.is_blocked else awaited)

    def _look_after_half(self, look: int) -> None:
        """End the work for a client that sends no more, unless it still waits for its answer.

        Only what its kernel says to something that is sent can tell. Within the answer its parts do that.
        """
        if self._is_over or self.transport.is_closing() or self.cycle.response_complete:
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.abort()
            return
        says_nothing = not self.cycle.response_started and self.scope["http_version"] == "1.1"
        if says_nothing and look % _LOOKS_A_WORD == 0:
            self.transport.write(_STILL_THERE)
        self.loop.call_later(_LOOK_SECONDS, self._look_after_half, look + 1)

    def _too_late(self) -> None:
        self._late = None
        if self.conn.their_state is h11.IDLE:
            self._end_with(Refusal(408, f"expected a whole request within {_HEAD_SECONDS:.0f} s"))
        else:
            self.abort()

    def _end_with(self, refusal: Refusal) -> None:
        """Write a whole response, unless one has begun and not ended, and close the connection."""
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.abort()  # nothing can be said in the middle of a response
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # its application must write nothing behind this
            self.cycle.message_event.set()
        body = msgspec.json.encode(refusal.error)
        head = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        lines = [f"{name}: {value}\r\n" for name, value in {**head, **refusal.headers}.items()]
        phrase = http.HTTPStatus(refusal.status).phrase
        status = "".join([f"HTTP/1.1 {refusal.status} {phrase}\r\n", *lines, "\r\n"])
        self.transport.write(status.encode() + body)
        self._lingering.linger()
