"""On a terminal, how much of a long prompt has been read, until the answer begins."""

import shutil
import sys
import time

import click

_CLEAR_LINE = "\r\x1b[K"
_SHOW_SECONDS = 1.0


class Reading:
    """A line on standard error, where both streams are a terminal; nothing in the first second."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._shown = False
        self._wanted = sys.stderr.isatty() and sys.stdout.isatty()

    def show(self, done: int, total: int) -> None:
        """Take in that so many tokens of a prompt are computed."""
        self._show(f"reading: {done} of {total} tokens")

    def show_images(self, done: int, total: int) -> None:
        """Take in that so many tiles of its images are computed."""
        self._show(f"looking: {done} of {total} tiles")

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            click.echo(_CLEAR_LINE, err=True, nl=False)
            self._shown = False

    def _show(self, text: str) -> None:
        if self._wanted and time.monotonic() - self._start > _SHOW_SECONDS:
            short = text[: shutil.get_terminal_size().columns - 1]
            click.echo(_CLEAR_LINE + click.style(short, dim=True), err=True, nl=False)
            self._shown = True
