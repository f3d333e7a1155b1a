"""What a box says, frame by frame, as far as we listen: not for ever, not without an end, not to anything.

An honest box may compute for minutes. Its agent says so, with a PING every few seconds; a box that says
nothing at all, a byte now and then, or more than any agent would, is given up.
"""

import asyncio
import time
from typing import Any, Protocol

from edgephi.errors import TransportError
from edgephi.flash.destination import Box
from edgephi.store.agent.frames import HEADER, MAGIC, Kind, read_header

SILENCE_SECONDS = 20.0
"""An agent says a word every five seconds, whatever it does."""

LONGEST_WORK_SECONDS = 3600.0
"""So long an agent may only say that it is alive: it probes a large model, on an SD card."""

_PROGRESS_BYTES = 8 << 10
_PIECE_BYTES = 64 << 10
_LONGEST_GREETING_BYTES = 64 << 10
# An agent tells of progress five times a second, and begins a dozen steps.
_MOST_FRAMES_AT_ONCE = 2000
_MOST_FRAMES_A_SECOND = 50
_MOST_STEPS = 200


class SilentBoxError(TransportError):
    """A box is connected, and says too little for too long."""


class Reader(Protocol):
    """What bytes come out of."""

    async def read(self, n: int = -1) -> Any:
        """At least a byte, at most `n`; none at the end."""


class Incoming:
    """Frames of one agent. `awaited` says in words what comes next, for an error.

    Everything raises TransportError, and EOFError at the end.
    """

    def __init__(self, box: Box, stream: Reader) -> None:
        self.awaited = "its agent's first word"
        self._box = box
        self._stream = stream
        self._buffer = bytearray()
        self._begun = self._worked = time.monotonic()
        self._end = 0.0  # when the frame that comes must be here, if it makes no progress; 0 between frames
        self._frames = 0
        self._steps = 0

    async def skip_greeting(self) -> bytes:
        """Read up to the agent's magic word: a shell may say something before, which is returned.

        All of it, and the first frame, have to come in the time in which an agent says a word.
        """
        end = self._end = time.monotonic() + SILENCE_SECONDS
        while (place := self._buffer.find(MAGIC)) < 0:
            if len(self._buffer) > _LONGEST_GREETING_BYTES:
                raise TransportError(
                    f"{self._box}: expected edgephi's agent, found {bytes(self._buffer[:60])!r}",
                    hint="see what the shell there prints: it must end by itself",
                )
            await self._more(end)
        greeting = bytes(self._buffer[:place])
        del self._buffer[: place + len(MAGIC)]
        return greeting

    @property
    def said(self) -> bytes:
        """What has come and is no frame: all of it, when there was no agent."""
        return bytes(self._buffer)

    async def frame(self) -> tuple[Kind, bytes]:
        """The next frame that says something."""
        while True:
            self._end = self._end or time.monotonic() + SILENCE_SECONDS
            await self._fill(HEADER.size)
            kind, length = read_header(bytes(self._buffer[: HEADER.size]))
            await self._fill(HEADER.size + length)
            payload = bytes(self._buffer[HEADER.size : HEADER.size + length])
            del self._buffer[: HEADER.size + length]
            self._end = 0.0
            self._check_pace(kind)
            if kind != Kind.PING:
                self._worked = time.monotonic()
                return kind, payload
            if time.monotonic() - self._worked > LONGEST_WORK_SECONDS:
                raise SilentBoxError(
                    f"{self._box}: expected {self.awaited} within {LONGEST_WORK_SECONDS / 60:.0f} minutes, "
                    "found only that the agent is alive",
                    hint="see what the box does; what has arrived is kept",
                )

    def _check_pace(self, kind: Kind) -> None:
        """Raise TransportError for more frames or steps than any agent says."""
        self._frames += kind != Kind.RECEIVED  # of these there are no more than chunks
        self._steps += kind == Kind.STEP
        allowed = _MOST_FRAMES_AT_ONCE + _MOST_FRAMES_A_SECOND * (time.monotonic() - self._begun)
        if self._frames > allowed or self._steps > _MOST_STEPS:
            raise TransportError(
                f"{self._box}: expected {self.awaited}, found {self._frames} words about {self._steps} steps",
                hint="use the same edgephi on both sides",
            )

    async def _fill(self, size: int) -> None:
        """Have at least so many bytes; as long as they come, it may take its time."""
        before = len(self._buffer)
        while len(self._buffer) < size:
            await self._more(self._end)
            if len(self._buffer) - before >= _PROGRESS_BYTES:
                self._end, before = time.monotonic() + SILENCE_SECONDS, len(self._buffer)

    async def _more(self, end: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, end - time.monotonic())):
                data = await self._stream.read(_PIECE_BYTES)
        except TimeoutError:
            raise SilentBoxError(
                f"{self._box}: expected {self.awaited}, found nothing for {SILENCE_SECONDS:.0f} s",
                hint="see whether the box hangs; what has arrived is kept",
            ) from None
        if not data:
            raise EOFError
        self._buffer += data
