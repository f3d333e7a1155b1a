"""The steps of long work, on standard error: a bar while one runs on a terminal, then its time."""

import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import click

from edgephi.cli.show.sizes import human_bytes
from edgephi.guards.visible import visible

CLEAR_LINE = "\r\x1b[K"
REDRAW_SECONDS = 0.2
_TITLE_COLUMNS = 22
_BAR_COLUMNS = 30
_SHORT_BAR_COLUMNS = 12  # rate and time left stand beside it
_RATE_SECONDS = 5.0
_FIRST_MOMENT_SECONDS = 0.7


@contextlib.contextmanager
def step(title: str, size: int) -> Iterator[Callable[[int], None]]:
    """Show a step of `size` units of work, 0 when it cannot be measured; yields what counts units done.

    A step that ends with an exception leaves an empty line, for the error to stand on.
    """
    with _shown(_Line(title, size)) as count:
        yield count


@contextlib.contextmanager
def transfer(title: str, size: int) -> Iterator[Callable[[int], None]]:
    """Show a step as `step` does whose units are bytes: their rate and how long the rest will take."""
    with _shown(_Transfer(title, size)) as count:
        yield count


@contextlib.contextmanager
def _shown(line: "_Line") -> Iterator[Callable[[int], None]]:
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield line.count
    else:
        with _redrawn(line):
            yield line.count
    click.echo(line.result(), err=True)


class _Line:
    """One step in one line of text."""

    def __init__(self, title: str, size: int) -> None:
        self._label = f"{visible(title):<{_TITLE_COLUMNS}}"
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
        return self._bar(_BAR_COLUMNS) if self._size else self.result()

    def _bar(self, columns: int) -> str:
        return f"{self._label} {self._seconds()}  {bar(self._done, self._size, columns)}"

    def _seconds(self) -> str:
        return f"{time.perf_counter() - self._start:6.1f} s"


class _Transfer(_Line):
    """One step whose units are bytes."""

    def __init__(self, title: str, size: int) -> None:
        super().__init__(title, size)
        # Time and bytes done of the last seconds, so that the rate is that of now.
        self._seen: deque[tuple[float, int]] = deque([(self._start, 0)])

    def result(self) -> str:
        """The finished step, and its mean rate."""
        seconds = time.perf_counter() - self._start
        if not self._done or not seconds:
            return super().result()
        return f"{super().result()}  {human_bytes(self._done)}, {human_bytes(int(self._done / seconds))}/s"

    def progress(self) -> str:
        """The running step, its rate and the time left."""
        if not self._size:
            return super().result()
        now = time.perf_counter()
        self._seen.append((now, self._done))
        while self._seen[0][0] < now - _RATE_SECONDS:
            self._seen.popleft()
        begin, before = self._seen[0]
        told = rate_and_rest(self._done - before, now - begin, self._size - self._done)
        return f"{self._bar(_SHORT_BAR_COLUMNS)}{told}"


def bar(done: int, size: int, columns: int) -> str:
    """How much of `size` units is done: a bar of so many columns and the share."""
    share = min(done / size, 1.0)
    full = int(share * columns)
    return f"[{'#' * full}{'-' * (columns - full)}] {int(100 * share):3d}%"


def rate_and_rest(done: int, seconds: float, rest: int) -> str:
    """The rate of `done` bytes in that time, and how long the rest will take at it: what follows a bar.

    Nothing in the first moment, when small files and caches would tell of hours or of nothing.
    """
    if seconds < _FIRST_MOMENT_SECONDS:
        return ""
    rate = done / seconds
    left = f", {duration(rest / rate)} left" if rate else ""
    return f"  {human_bytes(int(rate))}/s{left}"


def duration(seconds: float) -> str:
    """A time as people read it: 7 s, 2 min 05 s, 3 h 20 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


@contextlib.contextmanager
def _redrawn(line: _Line) -> Iterator[None]:
    """Show the line on the terminal, again and again, while the block runs; then clear it."""
    ended = threading.Event()

    def redraw() -> None:
        while not ended.wait(REDRAW_SECONDS):
            # A line that is wrapped cannot be cleared; the last column makes some terminals wrap.
            click.echo(CLEAR_LINE + line.progress()[: terminal_columns() - 1], err=True, nl=False)

    thread = threading.Thread(target=redraw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        click.echo(CLEAR_LINE, err=True, nl=False)


def terminal_columns() -> int:
    """How many columns the terminal of standard error has; 80 where it does not say."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
