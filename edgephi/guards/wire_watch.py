"""What may come over a wire from a server that we do not trust: how much of it, and how slowly.

A client's own timeouts hold for one read each: a server that sends a byte a second keeps it for days, in a
body as well as before one. Here a little must come within some seconds, whatever the reads are; else the
connection is cut, and the error says so. A slow line brings more than that little. And no answer is
longer than it may be.

The client is httpx2's, or httpx's, which that one follows and which older clients of the hub are made with:
no name of either stands here.
"""

import contextlib
import functools
import socket
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from edgephi.errors import TransportError

PATIENCE_SECONDS = 22.0
"""Without progress for so long, over however many attempts, a server is given up."""

PROGRESS_BYTES = 8 << 10
"""So many bytes are progress, and so is a whole answer that is no server's excuse."""

MOST_CUTS = 2
"""So many connections may make no progress, one after the other."""

_HINT = "try again later, and see whether something on the way answers in its place"
# A body that has begun and goes on no more: there is time left for another attempt.
_STALL_SECONDS = 11.0
_LOOK_SECONDS = 0.25
_LONGEST_REFUSAL_BYTES = 64 << 10
_ANSWER_BYTES, _ANSWER_SECONDS = "edgephi_answer_bytes", "edgephi_answer_seconds"


def http_library(client: Any) -> ModuleType:
    """The library that a client is of: httpx2, or httpx."""
    kind = next(kind for kind in type(client).__mro__ if kind.__name__ == "Client")
    return sys.modules[kind.__module__.partition(".")[0]]


def allowing(*, size: int | None = _LONGEST_REFUSAL_BYTES, seconds: float = 0.0) -> dict[str, Any]:
    """The extensions of a request: its answer may have `size` bytes, and take `seconds` to begin."""
    return {_ANSWER_BYTES: size, _ANSWER_SECONDS: seconds}


class WireWatch:
    """Watches all that one client does, in one thread at a time.

    Answers are at most `longest` bytes, unless their request says another size; those of an error are cut off
    where they are too long, others refused. `cuts` counts the connections that it has ended since something
    came. Compressed answers, which can be any size, are not asked for.
    """

    def __init__(self, client: Any, *, longest: int = _LONGEST_REFUSAL_BYTES) -> None:
        self._longest = longest
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._progress_at = time.monotonic()
        self._began_at = 0.0
        self._bytes = 0
        self._answer_seconds = 0.0
        self._is_waiting = False
        self._is_one_operation = False
        self._cut_after = 0.0
        self.cuts = 0
        self._closed = threading.Event()
        self._client = client
        self.library = http_library(client)
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks["request"], self._begin],
            "response": [self._arrive, *hooks["response"]],
        }
        threading.Thread(target=self._look, name="wire watch", daemon=True).start()

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()
        hooks = self._client.event_hooks
        self._client.event_hooks = {
            name: [hook for hook in hooks[name] if hook not in (self._begin, self._arrive)] for name in hooks
        }

    @contextlib.contextmanager
    def operation(self) -> Iterator[None]:
        """All requests of the block are attempts at one thing: only progress gives them more time."""
        before = self._is_one_operation
        if not before:
            self._progress_at = time.monotonic()
        self._is_one_operation = True
        try:
            yield
        finally:
            self._is_one_operation = before

    @property
    def seconds_left(self) -> float:
        """How long this operation may still go on without progress."""
        return self._progress_at + PATIENCE_SECONDS - time.monotonic()

    def count(self, size: int) -> None:
        """Take in that so many bytes have crossed the wire."""
        self._bytes += size
        if self._bytes >= PROGRESS_BYTES:
            self._bytes = self.cuts = 0
            self._progress_at = self._began_at = time.monotonic()

    @property
    def slowness(self) -> str:
        """Why this watch has ended the last request; "" when it has not."""
        if not self._cut_after:
            return ""
        return f"less than {PROGRESS_BYTES >> 10} KiB within {self._cut_after:.0f} s"

    def check(self) -> None:
        """Raise the library's ReadTimeout when it was this watch that ended the connection."""
        if self.slowness:
            raise self.library.ReadTimeout(self.slowness)

    def _begin(self, request: Any) -> None:
        """A request is about to be sent."""
        if not self._is_one_operation:
            self._progress_at = time.monotonic()
        elif self.seconds_left <= 0 or self.cuts >= MOST_CUTS:
            raise TransportError(
                f"{request.url.host}: expected {PROGRESS_BYTES >> 10} KiB within {PATIENCE_SECONDS:.0f} s, "
                "found less",
                hint=_HINT,
            )
        request.headers["Accept-Encoding"] = "identity"
        request.extensions["trace"] = self._trace
        self._answer_seconds = request.extensions.get(_ANSWER_SECONDS, 0.0)
        self._cut_after = self._began_at = 0.0
        self._is_waiting = True

    def _arrive(self, response: Any) -> None:
        """The head of an answer is here."""
        # Whoever compresses all the same gets what is sent treated as what it is.
        response.headers.pop("Content-Encoding", None)
        self._began_at = time.monotonic()
        longest = response.request.extensions.get(_ANSWER_BYTES, self._longest)
        if not response.is_success:
            longest = _LONGEST_REFUSAL_BYTES
        host = response.url.host
        watched = _body_of(self.library)
        response.stream = watched(response.stream, self, host, longest, is_refusal=not response.is_success)

    def _trace(self, name: str, facts: Mapping[str, Any]) -> None:
        """Learn of connections, and of failures, from the library below the client."""
        if name.endswith(".failed"):
            self._is_waiting = False
        find = getattr(facts.get("return_value"), "get_extra_info", None)
        if find is not None:
            end = find("socket")
            if isinstance(end, socket.socket):
                self._sockets.add(end)

    def _look(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            now = time.monotonic()
            is_over = now > self._progress_at + max(PATIENCE_SECONDS, self._answer_seconds)
            is_stalled = bool(self._began_at) and now > self._began_at + _STALL_SECONDS
            if self._is_waiting and (is_over or is_stalled):
                self._is_waiting = False
                self._cut_after = _STALL_SECONDS if is_stalled else PATIENCE_SECONDS
                self.cuts += 1
                for each in list(self._sockets):
                    with contextlib.suppress(OSError, ValueError):
                        each.shutdown(socket.SHUT_RDWR)

    def pause(self) -> float:
        """Whoever reads is busy with what has come; returns when that began, for `resume`."""
        self._is_waiting = False
        return time.monotonic()

    def resume(self, paused: float) -> None:
        """Whoever reads wants more."""
        busy = time.monotonic() - paused
        self._progress_at += busy
        self._began_at += busy
        self._is_waiting = True

    def done(self) -> None:
        """Nothing more is waited for."""
        self._is_waiting = False


@functools.cache
def _body_of(library: ModuleType) -> type["_Watched"]:
    """A body that is watched, of the kind that a library's answers have."""

    class Body(_Watched, library.SyncByteStream):  # type: ignore[misc,name-defined]
        """As that one says it."""

    return Body


class _Watched:
    """The body of an answer."""

    def __init__(
        self,
        stream: Any,
        watch: WireWatch,
        host: str,
        longest: int | None,
        *,
        is_refusal: bool,
    ) -> None:
        self._stream = stream
        self._failures = (watch.library.TransportError, OSError)
        self._watch = watch
        self._host = host
        self._longest = longest
        self._is_refusal = is_refusal

    def __iter__(self) -> Iterator[bytes]:
        """What comes, as long as it comes."""
        size = 0
        try:
            for data in self._stream:
                size += len(data)
                self._watch.count(len(data))
                if self._longest is not None and size > self._longest:
                    if self._is_refusal:
                        return
                    # None of the library's errors: whoever tries again would get as much again.
                    raise TransportError(
                        f"{self._host}: expected an answer of at most {self._longest} bytes, found more",
                        hint=_HINT,
                    )
                paused = self._watch.pause()
                yield data
                self._watch.resume(paused)
        except self._failures:
            self._watch.check()
            raise
        finally:
            self._watch.done()
        self._watch.check()  # an end that we made looks like any other

    def close(self) -> None:
        """End it."""
        self._watch.done()
        self._stream.close()
