"""The steps of long work, on standard error: a bar while one runs on a terminal, then its time."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import click

_TITLE_COLUMNS = 22
_BAR_COLUMNS = 30
_CLEAR_LINE = "\r\x1b[K"
_REDRAW_SECONDS = 0.2


@contextlib.contextmanager
def step(title: str, size: int) -> Iterator[Callable[[int], None]]:
    """Show a step of `size` units of work, 0 when it cannot be measured; yields what counts units done.

    A step that ends with an exception leaves an empty line, for the error to stand on.
    """
    line = _Line(title, size)
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield line.count
    else:
        with _redrawn(line):
            yield line.count
    click.echo(line.result(), err=True)


class _Line:
    """One step in one line of text."""

    def __init__(self, title: str, size: int) -> None:
        self._label = f"{title:<{_TITLE_COLUMNS}}"
        self._size = size
        self._done = 0
        self._start = time.perf_counter()

    def count(self, units: int) -> None:
        """Take in that `units` more are done."""
        self._done += units

    def result(self) -> str:
        """The finished step: what it was and how long it took."""
        return f"{self._label} {self._seconds()}"

    def progress(self) -> str:
        """The running step; the time moves on even while no unit is finished."""
        if not self._size:
            return self.result()
        share = min(self._done / self._size, 1.0)
        full = int(share * _BAR_COLUMNS)
        bar = "#" * full + "-" * (_BAR_COLUMNS - full)
        return f"{self.result()}  [{bar}] {int(100 * share):3d}%"

    def _seconds(self) -> str:
        return f"{time.perf_counter() - self._start:6.1f} s"


@contextlib.contextmanager
def _redrawn(line: _Line) -> Iterator[None]:
    """Show the line on the terminal, again and again, while the block runs; then clear it."""
    ended = threading.Event()

    def redraw() -> None:
        while not ended.wait(_REDRAW_SECONDS):
            # A line that is wrapped cannot be cleared; the last column makes some terminals wrap.
            click.echo(_CLEAR_LINE + line.progress()[: _terminal_columns() - 1], err=True, nl=False)

    thread = threading.Thread(target=redraw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        click.echo(_CLEAR_LINE, err=True, nl=False)


def _terminal_columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
