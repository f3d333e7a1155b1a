"""Send no more than so many bytes a second, all boxes together."""

import asyncio
import time

_PIECES_PER_SECOND = 20
_LARGEST_PIECE = 256 << 10
_SMALLEST_PIECE = 256


class RateLimit:
    """Whoever wants to send waits here first. None: as fast as the network takes it."""

    def __init__(self, bytes_per_second: int | None) -> None:
        self._rate = bytes_per_second
        self._next = 0.0

    @property
    def piece_bytes(self) -> int:
        """How many bytes to send at a time: few enough to be even, many enough to be quick."""
        if self._rate is None:
            return _LARGEST_PIECE
        return max(_SMALLEST_PIECE, min(_LARGEST_PIECE, self._rate // _PIECES_PER_SECOND))

    async def wait(self, size: int) -> None:
        """Return when `size` bytes may be sent."""
        if self._rate is None:
            return
        now = time.monotonic()
        start = max(self._next, now)
        self._next = start + size / self._rate
        await asyncio.sleep(start - now)
