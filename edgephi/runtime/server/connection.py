"""An HTTP connection with the limits that uvicorn leaves to others: on heads, on silence, on their number."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import h11
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from edgephi.runtime.server.refusal import Refusal

MOST_HEAD_BYTES = 16 << 10
"""Request line and headers together."""

KEEP_ALIVE_SECONDS = 75
_MOST_CONNECTIONS = 256
_HEAD_SECONDS = 20.0  # for the head of a request, and for the rest of a body that nobody wants
_LINGER_SECONDS = 2.0  # for a client that is refused, to read why
_SILENT_READER_SECONDS = 30.0  # a client that has taken nothing for so long is gone


class Connection(H11Protocol):
    """One client. `scope["state"]["connection"]` of its requests."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, "connection": self}, _loop)
        self._late: asyncio.TimerHandle | None = None
        self._silent: asyncio.TimerHandle | None = None
        self._blocked_since: float | None = None
        self._blocked_before = 0.0
        self._refused = False

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

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the client when there are too many."""
        super().connection_made(transport)
        # Without this the kernel keeps a token back until the client has confirmed the last one, for 40 ms.
        # asyncio sets it too, but not on all sockets that it is given.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > _MOST_CONNECTIONS:
            self._end_with(Refusal(429, f"there are {_MOST_CONNECTIONS} connections already", retry_after=1))
        else:
            self._expect_rest()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        for timer in (self._late, self._silent):
            if timer is not None:
                timer.cancel()
        self._note_writable()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Give the client some time to send what it has begun."""
        if self._refused:
            return
        super().data_received(data)
        if not self._refused and not self.transport.is_closing():
            self._expect_rest()

    def on_response_complete(self) -> None:
        """The next request may have begun already, or this one may not have ended yet."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._expect_rest()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Say it as an error object. uvicorn calls this while it handles what h11 has raised."""
        cause = sys.exc_info()[1]
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.abort()  # nothing can be said in the middle of a response
            return
        if isinstance(cause, h11.RemoteProtocolError) and cause.error_status_hint == 431:
            self._end_with(Refusal(431, f"expected at most {MOST_HEAD_BYTES} bytes of headers, found more"))
        else:
            self._end_with(Refusal(400, "expected an HTTP request, found something else"))

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        super().pause_writing()
        self._blocked_since = time.monotonic()
        self._watch_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self._note_writable()

    def _note_writable(self) -> None:
        if self._blocked_since is not None:
            self._blocked_before += time.monotonic() - self._blocked_since
            self._blocked_since = None
        if self._silent is not None:
            self._silent.cancel()
            self._silent = None

    def _watch_reader(self, unsent: int) -> None:
        """Close the connection unless the client takes something in time."""

        def look() -> None:
            left = self.transport.get_write_buffer_size()
            if left >= unsent:
                self.abort()
            else:
                self._watch_reader(left)

        self._silent = self.loop.call_later(_SILENT_READER_SECONDS, look)

    def _expect_rest(self) -> None:
        """Set a clock while a head is awaited, or the rest of a body after its response; else stop it."""
        state = self.conn.their_state
        waiting = (state is h11.IDLE and self.timeout_keep_alive_task is None) or (
            state is h11.SEND_BODY and self.conn.our_state is h11.DONE
        )
        if waiting and self._late is None:
            self._set_clock(_HEAD_SECONDS, self._too_late)
        elif not waiting and self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        self._late = None
        if self.conn.their_state is h11.IDLE:
            self._end_with(Refusal(408, f"expected a whole request within {_HEAD_SECONDS:.0f} s"))
        else:
            self.abort()

    def _end_with(self, refusal: Refusal) -> None:
        """Write a whole response, whatever state the connection is in, and close it."""
        self._refused = True
        body = msgspec.json.encode(refusal.error)
        head = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        lines = [f"{name}: {value}\r\n" for name, value in {**head, **refusal.headers}.items()]
        status = "".join([f"HTTP/1.1 {refusal.status} {_PHRASES[refusal.status]}\r\n", *lines, "\r\n"])
        self.transport.write(status.encode() + body)
        # With data unread, `close` would make the kernel drop the response: let the client read it first.
        with contextlib.suppress(OSError):  # it is gone already
            self.transport.write_eof()
        self._set_clock(_LINGER_SECONDS, self.abort)

    def _set_clock(self, seconds: float, then: Callable[[], None]) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = self.loop.call_later(seconds, then)


_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
}
