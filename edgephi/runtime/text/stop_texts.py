"""Texts that end an answer, found while it is written, also where they are spread over several tokens."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Lets the text of an answer through until one of `stops` comes.

    What may be the beginning of a stop text is held back until that is known.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.found = False
        """Whether a stop text has come. It is never let through, nor what comes after it."""

    def feed(self, text: str) -> str:
        """What can be shown after `text` has come."""
        if self.found or not self._stops:
            return "" if self.found else text
        text = self._held + text
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            # The one that is complete first, so that it does not matter how the text is cut into pieces.
            self.found, self._held = True, ""
            return text[: min(found)[1]]
        size = self._held_size(text)
        self._held = text[len(text) - size :]
        return text[: len(text) - size]

    def rest(self) -> str:
        """What is still held back when the answer has ended otherwise."""
        text, self._held = self._held, ""
        return text

    def _held_size(self, text: str) -> int:
        """How many letters at the end of `text` may be the beginning of a stop text."""
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[len(text) - size :]
            if any(stop.startswith(end) for stop in self._stops):
                return size
        return 0
