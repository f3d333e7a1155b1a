"""What may happen many times a second, and must not fill a disk with lines."""

from __future__ import annotations

import asyncio

from edgephi.server.log import Log

_SECONDS = 60.0


class Tally:
    """Writes a text at once when it is new, and after a minute how many more times it came."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._more: dict[str, int] = {}

    def note(self, text: str) -> None:
        """It has happened once more. Needs the event loop."""
        if text in self._more:
            self._more[text] += 1
            return
        self._log.event("warning", text)
        self._begin(text)

    def close(self) -> None:
        """Write what is not written yet."""
        for text in list(self._more):
            self._say(text)
        self._more = {}

    def _begin(self, text: str) -> None:
        self._more[text] = 0
        asyncio.get_running_loop().call_later(_SECONDS, self._end, text)

    def _end(self, text: str) -> None:
        """The minute is over: another one begins where anything came."""
        if self._say(text):
            self._begin(text)
        else:
            self._more.pop(text, None)

    def _say(self, text: str) -> int:
        more = self._more.get(text, 0)
        if more:
            self._log.event("warning", f"{text} ({more} more times within {_SECONDS:.0f} s)")
        return more
