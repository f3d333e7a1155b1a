"""Chunks that arrive over a connection: read ahead, while those before them are checked, written and synced.

    the caller's thread     reads the next chunk into a free buffer and tells the sender
    a thread that writes    has each chunk hashed, and writes it to its place in `parts`
    a thread that syncs     has the disk hold a batch, and then notes it in the journal

So the connection waits for the processor only when all buffers are full, and hardly ever for the disk.
"""

import functools
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from edgephi.bundle.chunks import LARGEST_CHUNK_BYTES
from edgephi.errors import TransportError
from edgephi.store.agent.frames import CHUNK_HEAD, Kind
from edgephi.store.agent.link import Link
from edgephi.store.install import BATCH_BYTES, Install

_BUFFERS = 4
# What comes more slowly leaves time to hash each chunk by itself, too, and to say at once that one is wrong.
# What comes faster is a whole file soon, and says it then.
_FAST_BYTES_PER_SECOND = 50e6
_LONGEST_UNACKNOWLEDGED_SECONDS = 1.0


def receive_chunks(link: Link, install: Install) -> None:
    """Take chunks until the sender has no more, and hand them to `install`.

    Those that were read are written, whatever ends this: LinkLostError or KeyboardInterrupt of the link, or
    what `install` raises.
    """
    with _Writer(install) as writer:
        before = time.monotonic()
        while True:
            kind, length = link.read_header()
            if kind == Kind.FINISH:
                return
            if kind != Kind.CHUNK or length < CHUNK_HEAD.size:
                raise TransportError(
                    f"expected a chunk, found a frame {kind.name} of {length} bytes",
                    hint="use the same edgephi and try again",
                )
            buffer = writer.free_buffer()
            link.read_into(buffer[:length])
            now = time.monotonic()
            writer.put(_Arrival(buffer, length, is_slow=length < (now - before) * _FAST_BYTES_PER_SECOND))
            before = now
            link.send(Kind.RECEIVED)


@dataclass(frozen=True)
class _Arrival:
    """A chunk with its head, in the first `length` bytes of a buffer. `is_slow`: there is time to hash it."""

    buffer: memoryview
    length: int
    is_slow: bool


class _Writer:
    """Writes chunks in a thread of its own. Leaving the block waits for it, and raises what went wrong."""

    def __init__(self, install: Install) -> None:
        self._install = install
        self._behind = _Acknowledging(install)
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for _ in range(_BUFFERS):  # the kernel gives memory to those parts only that chunks are written to
            self._free.put(memoryview(bytearray(CHUNK_HEAD.size + LARGEST_CHUNK_BYTES)))
        self._arrived: queue.SimpleQueue[_Arrival | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def free_buffer(self) -> memoryview:
        """A buffer for the next chunk and its head, as soon as there is one. Raises what went wrong."""
        buffer = self._free.get()
        if self._error is not None:
            raise self._error
        return buffer

    def put(self, arrival: _Arrival) -> None:
        """Have a chunk written. Its buffer becomes free again."""
        self._arrived.put(arrival)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._arrived.put(None)
        self._thread.join()
        self._behind.close()
        if error is None and self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (arrival := self._arrived.get()) is not None:
            release = functools.partial(self._release, arrival.buffer)
            if self._error is not None:
                release()
                continue
            sha256, offset = CHUNK_HEAD.unpack_from(arrival.buffer)
            data = arrival.buffer[CHUNK_HEAD.size : arrival.length]
            try:
                if arrival.is_slow:
                    self._install.write(sha256.hex(), offset, data)
                    release()
                else:
                    self._install.write_in_order(sha256.hex(), offset, data).add_done_callback(release)
            except Exception as error:
                self._error = error
                release()
            else:
                self._error = self._behind.written(arrival.length)

    def _release(self, buffer: memoryview, _hashed: Future[None] | None = None) -> None:
        self._free.put(buffer)


class _Acknowledging:
    """Has the disk hold what was written, behind the writer's back: after a batch, and after a moment."""

    def __init__(self, install: Install) -> None:
        self._install = install
        self._changed = threading.Condition()
        self._bytes = 0
        self._is_closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def written(self, size: int) -> Exception | None:
        """Take in that so many bytes more were written. Returns what went wrong behind."""
        with self._changed:
            self._bytes += size
            if self._bytes >= BATCH_BYTES:
                self._changed.notify()
            return self._error

    def close(self) -> None:
        """Stop. What was written last may not be acknowledged."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._is_closed or self._bytes >= BATCH_BYTES, _LONGEST_UNACKNOWLEDGED_SECONDS
                )
                if self._is_closed:
                    return
                waiting, self._bytes = self._bytes, 0
            if waiting:
                try:
                    self._install.acknowledge()
                except Exception as error:
                    with self._changed:
                        self._error = error
                    return
