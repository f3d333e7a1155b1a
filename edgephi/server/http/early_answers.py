"""Answers that are given before all of their request has come, and how the connection ends behind them.

Who closes a socket with something unread in it makes the kernel send a reset, and that can overtake the
answer: a packet that was lost is not sent again, and on many systems a reset takes from the client what it
has not read yet. So only our half is closed at first, what comes is dropped, and the rest follows once the
client has closed its half, has sent nothing for a moment, or has sent for long enough (RFC 9112, 9.6).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import h11

from edgephi.server.http.strict_head import StrictConnection

MOST_AWAITED_BYTES = 64 << 10
"""So much of a body that nobody wants is waited for, to keep the connection; larger ones end it."""

_SILENT_SECONDS = 2.0  # that a client may be silent while it is let go
_MOST_SECONDS = 20.0  # and all in all
_MOST_DROPPED_BYTES = 64 << 20  # then no more is read: the kernel holds the client up, which can read still


class EarlyAnswerConnection(StrictConnection):
    """Says `Connection: close` in an answer that comes before all of a large body."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._unread: int | None = 0  # bytes of the body that are still to come; None: nobody knows

    def next_event(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        """The next event. Raises RefusedHead, as its parent does."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            lengths = [value for name, value in event.headers if name == b"content-length"]
            self._unread = int(lengths[0]) if lengths else None
        elif isinstance(event, h11.Data) and self._unread is not None:
            self._unread -= len(event.data)
        return event

    def send_with_data_passthrough(self, event: h11.Event) -> list[bytes] | None:
        """The bytes that tell an event; `send` is this with the bytes put together."""
        if isinstance(event, h11.Response) and self._much_is_to_come():
            event = h11.Response(
                status_code=event.status_code,
                headers=[*event.headers, (b"connection", b"close")],
                reason=event.reason,
            )
        return super().send_with_data_passthrough(event)

    def _much_is_to_come(self) -> bool:
        if self.their_state is not h11.SEND_BODY:
            return False
        return self._unread is None or self._unread > MOST_AWAITED_BYTES


class LingeringTransport:
    """A transport of asyncio's that lingers when it is closed while its client may still send.

    `still_sends` says whether it may. `closing` is called once, before anything else happens: whether it
    lingers. Everything else is the transport's own.
    """

    def __init__(
        self, transport: asyncio.Transport, still_sends: Callable[[], bool], closing: Callable[[bool], None]
    ) -> None:
        self.lingers = False
        self._transport = transport
        self._still_sends = still_sends
        self._closing = closing
        self._loop = asyncio.get_running_loop()
        self._clock: asyncio.TimerHandle | None = None
        self._last_sign = 0.0
        self._end = 0.0
        self._dropped_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether no more can be written."""
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        """Close when all that was written is sent, lingering if need be."""
        if self.is_closing():
            return
        if self._still_sends():
            self.linger()
        else:
            self._closing(False)
            self._transport.close()

    def linger(self) -> None:
        """Close our half when all that was written is sent, and the rest when the client has, or in time."""
        self._closing(True)
        self.lingers = True
        self._transport.resume_reading()
        with contextlib.suppress(OSError):  # it is gone already
            self._transport.write_eof()
        self._last_sign = self._loop.time()
        self._end = self._last_sign + _MOST_SECONDS
        self._look()

    def hurry(self) -> None:
        """Linger for no longer than for a client that is silent from now on."""
        self._end = min(self._end, self._loop.time() + _SILENT_SECONDS)

    def drop(self, data: bytes) -> None:
        """Take what has come while lingering."""
        self._last_sign = self._loop.time()
        self._dropped_bytes += len(data)
        if self._dropped_bytes > _MOST_DROPPED_BYTES:
            self._transport.pause_reading()

    def stop(self) -> None:
        """Stop the clock: the connection is gone."""
        if self._clock is not None:
            self._clock.cancel()

    def _look(self) -> None:
        """Close at once when it is time to, else look again then."""
        now = self._loop.time()
        if self._transport.get_write_buffer_size():  # nobody can have read what is not sent
            self._last_sign, self._end = now, now + _MOST_SECONDS
        due = min(self._last_sign + _SILENT_SECONDS, self._end)
        if now >= due:
            self._transport.abort()
        else:
            self._clock = self._loop.call_later(due - now, self._look)
