"""What a process is given and what it writes: in one loop, without a thread, and with no pipe ever full.

A process that writes more than a pipe holds, where nobody reads, waits for ever. So all three of its pipes
are served at once, and in between the caller may look at it. Standard library only.
"""

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Callable
from typing import IO, Any

_READ_BYTES = 1 << 16
_LAST_WORDS_BYTES = 1 << 20
_LONGEST_PAUSE_SECONDS = 0.05


class NotInTimeError(Exception):
    """The process has not ended in time. It runs on."""


class Exchange:
    """With a process whose standard streams are pipes. What fits into the first is given at once."""

    def __init__(self, process: "subprocess.Popen[bytes]", given: bytes) -> None:
        self._process = process
        self._left = memoryview(given)
        os.set_blocking(self._input.fileno(), False)
        if self._is_given():
            self._input.close()

    def to_the_end(
        self,
        take: Callable[[bytes], object],
        *,
        seconds: float | None = None,
        look: Callable[[], object] | None = None,
        look_seconds: float = _LONGEST_PAUSE_SECONDS,
    ) -> bytes:
        """Serve the process until it has ended. Returns the last that it wrote to standard error.

        `take` gets what it writes to standard output, as it comes. `look` is called every `look_seconds`, and
        ends the loop when it raises. Raises NotInTimeError after `seconds`.
        """
        end = None if seconds is None else time.monotonic() + seconds
        next_look = time.monotonic()
        words = b""
        output, errors = _pipe(self._process.stdout), _pipe(self._process.stderr)
        with selectors.DefaultSelector() as selector:
            for pipe in (output, errors):
                selector.register(pipe, selectors.EVENT_READ)
            if self._left:
                selector.register(self._input, selectors.EVENT_WRITE)
            while selector.get_map() or self._process.poll() is None:
                now = time.monotonic()
                if look is not None and now >= next_look:
                    look()
                    next_look = now + look_seconds
                if end is not None and now >= end:
                    raise NotInTimeError
                pauses = [each - now for each in (end, next_look if look else None) if each is not None]
                if not selector.get_map():  # it has closed its pipes, and is about to end
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._process.wait(max(0.0, min([_LONGEST_PAUSE_SECONDS, *pauses])))
                    continue
                for key, _ in selector.select(max(0.0, min(pauses)) if pauses else None):
                    if key.fileobj is self._input:
                        if self._is_given():
                            selector.unregister(self._input)
                            self._input.close()
                        continue
                    data = os.read(key.fd, _READ_BYTES)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is output:
                        take(data)
                    else:
                        words = (words + data)[-_LAST_WORDS_BYTES:]
        return words

    @property
    def _input(self) -> IO[bytes]:
        return _pipe(self._process.stdin)

    def _is_given(self) -> bool:
        """Write as much as the pipe takes now; whether there is nothing left to write."""
        try:
            while self._left:
                self._left = self._left[os.write(self._input.fileno(), self._left) :]
        except BlockingIOError:
            return False
        except BrokenPipeError:  # why it reads no more, it says elsewhere
            self._left = self._left[:0]
        return True


def _pipe(stream: Any) -> IO[bytes]:
    assert stream is not None  # noqa: S101 - for the type checker
    pipe: IO[bytes] = stream
    return pipe
