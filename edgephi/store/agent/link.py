"""The agent's end of the connection: frames over two file descriptors."""

import array
import contextlib
import fcntl
import os
import select
import signal
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from edgephi.errors import TransportError
from edgephi.store.agent.frames import (
    HEADER,
    PING_SECONDS,
    SILENCE_SECONDS,
    Kind,
    frame,
    frame_of,
    read_header,
)

_TELL_SECONDS = 0.2
# sshd hands over 32 KiB at a time. To be woken for each takes longer than to read it.
_GATHER_SECONDS = 0.0002
_GATHERED_BYTES = 128 << 10
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031


class LinkLostError(TransportError):
    """The other side is gone, or has said nothing for so long that it must be."""


class Link:
    """Reads and writes frames. Any thread may write; one at a time may read."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._writing = threading.Lock()
        self._is_closed = False
        os.set_blocking(incoming, False)  # asks the kernel half as often
        with contextlib.suppress(OSError):  # fewer changes between sshd and us; not every pipe may grow
            fcntl.fcntl(incoming, _F_SETPIPE_SZ, _PIPE_BYTES)

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Send a frame. When nobody listens any more it goes nowhere: reading finds that out."""
        self._write(frame(kind, payload))

    def send_value(self, kind: Kind, value: Any) -> None:
        """Send a frame with a value as JSON."""
        self._write(frame_of(kind, value))

    def read_header(self) -> tuple[Kind, int]:
        """Kind and length of the next frame that is no PING.

        Raises LinkLostError, and KeyboardInterrupt when the sender cancels.
        """
        header = bytearray(HEADER.size)
        while True:
            self.read_into(memoryview(header))
            kind, length = read_header(bytes(header))
            if kind == Kind.CANCEL:
                raise KeyboardInterrupt
            if kind != Kind.PING:
                return kind, length

    def read_into(self, view: memoryview) -> None:
        """Fill `view` with the bytes that come next. Raises LinkLostError."""
        while view:
            self._wait()
            if self._waiting_bytes() < min(len(view), _GATHERED_BYTES):
                time.sleep(_GATHER_SECONDS)
            count = os.readv(self._incoming, [view])
            if not count:
                raise LinkLostError("expected more from the sender, found its end", hint="try again")
            view = view[count:]

    def _wait(self) -> None:
        """Return when there is something to read. Raises LinkLostError when it takes too long."""
        if not select.select([self._incoming], [], [], SILENCE_SECONDS)[0]:
            raise LinkLostError(
                f"expected a word from the sender, found none for {SILENCE_SECONDS:.0f} s", hint="try again"
            )

    def _waiting_bytes(self) -> int:
        """How many bytes could be read at once."""
        count = array.array("i", [0])
        fcntl.ioctl(self._incoming, termios.FIONREAD, count)
        return count[0]

    def expect(self, wanted: Kind) -> bytes:
        """The payload of the next frame, which must be of that kind. Raises TransportError."""
        kind, length = self.read_header()
        if kind != wanted:
            raise TransportError(
                f"expected a frame {wanted.name}, found {kind.name}",
                hint="use the same edgephi and try again",
            )
        payload = bytearray(length)
        self.read_into(memoryview(payload))
        return bytes(payload)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """While the block works and does not read: end it by KeyboardInterrupt when the sender cancels.

        A connection that merely breaks does not end it: what has begun is brought to its end.
        """
        wake, waking = os.pipe()

        def watch() -> None:
            header = bytearray(HEADER.size)
            while True:
                ready, _, _ = select.select([self._incoming, wake], [], [])
                if wake in ready:
                    return
                try:
                    self.read_into(memoryview(header))
                    kind, _length = read_header(bytes(header))
                except TransportError:
                    return
                if kind == Kind.CANCEL:
                    os.kill(os.getpid(), signal.SIGINT)
                    return

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            os.close(waking)
            thread.join()
            os.close(wake)

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Say now and then that this side is at work, for as long as the block runs, whatever it does."""
        ended = threading.Event()

        def ping() -> None:
            while not ended.wait(PING_SECONDS):
                self.send(Kind.PING)

        thread = threading.Thread(target=ping, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()

    def step(self, title: str, size: int) -> AbstractContextManager[Callable[[int], None]]:
        """A step of the work here, shown where the sender is (see `edgephi.steps`)."""
        return self._step(title, size)

    @contextlib.contextmanager
    def _step(self, title: str, size: int) -> Iterator[Callable[[int], None]]:
        self.send_value(Kind.STEP, {"title": title, "size": size})
        counter = _Counter(lambda units: self.send_value(Kind.DONE, {"units": units}))
        yield counter.count
        counter.tell()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        with self._writing:
            while view and not self._is_closed:
                try:
                    view = view[os.write(self._outgoing, view) :]
                except OSError:  # a broken pipe
                    self._is_closed = True


class _Counter:
    """Adds up what is done and tells it a few times a second."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._units = 0
        self._told = 0.0

    def count(self, units: int) -> None:
        self._units += units
        now = time.monotonic()
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            self.tell()

    def tell(self) -> None:
        units, self._units = self._units, 0
        if units:
            self._tell(units)
