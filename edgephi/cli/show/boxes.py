"""What the commands show of boxes that ssh reaches: bars for one, a line each for several, and a summary."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from edgephi.cli.show.progress import (
    CLEAR_LINE,
    REDRAW_SECONDS,
    bar,
    rate_and_rest,
    terminal_columns,
    transfer,
)
from edgephi.cli.show.say import say
from edgephi.guards.visible import visible

if TYPE_CHECKING:
    from edgephi.errors import EdgephiError

_BAR_COLUMNS = 20


class BoxSteps:
    """The steps on one box, each with a bar of its own. An error that ends the block ends the last one."""

    def __init__(self) -> None:
        self._step = ExitStack()
        self._count: Callable[[int], None] = lambda _units: None

    def begin(self, title: str, size: int) -> None:
        """End the step before, and show this one."""
        self._step.close()
        self._count = self._step.enter_context(transfer(title, size))

    def count(self, units: int) -> None:
        """So much more of the step is done."""
        self._count(units)

    def note(self, text: str) -> None:
        """Say something on a line of its own."""
        if sys.stderr.isatty():
            click.echo(CLEAR_LINE, err=True, nl=False)
        say(text, err=True)

    def end(self, error: "EdgephiError | None") -> None:
        """Nothing more comes; an error is for whoever called."""
        if error is None:
            self._step.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._step.__exit__(kind, error, trace)


class BoxLine:
    """One box of several, in one line. `ended` is said when all went well."""

    def __init__(self, name: str, *, ended: str = "active") -> None:
        self.name = name
        self._ended = ended
        self._title = "waiting"
        self._note = ""
        self._size = 0
        self._done = 0
        self._begun = time.monotonic()

    def begin(self, title: str, size: int) -> None:
        """Another step begins."""
        self._title, self._size, self._done, self._begun = visible(title), size, 0, time.monotonic()
        self._note = ""

    def count(self, units: int) -> None:
        """So much more of the step is done."""
        self._done += units

    def note(self, text: str) -> None:
        """Show this in place of the bar, until the next step begins."""
        self._note = visible(text)

    def end(self, error: "EdgephiError | None") -> None:
        """Nothing more comes."""
        self._size, self._note = 0, ""
        self._title = self._ended if error is None else f"failed: {visible(error.message)}"

    def milestone(self) -> str:
        """What is new since the step began: nothing that changes all the time."""
        return self._note or self._title

    def text(self) -> str:
        """The line as it is now."""
        if self._note or not self._size:
            return self.milestone()
        told = rate_and_rest(self._done, time.monotonic() - self._begun, self._size - self._done)
        return f"{self._title} {bar(self._done, self._size, _BAR_COLUMNS)}{told}"


@contextlib.contextmanager
def drawn(lines: Sequence[BoxLine]) -> Iterator[None]:
    """Draw one line a box, again and again; without a terminal, say only what is new of each."""
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    width = max(len(line.name) for line in lines)
    said = dict.fromkeys((line.name for line in lines), "")
    ended = threading.Event()

    def draw() -> None:
        columns = terminal_columns()
        texts = (f"{line.name:<{width}}  {line.text()}"[: columns - 1] for line in lines)
        drawing = "".join(f"{CLEAR_LINE}{text}\n" for text in texts)
        click.echo(f"{drawing}\x1b[{len(lines)}A", err=True, nl=False)

    def tell() -> None:
        for line in lines:
            text = line.milestone()
            if text != said[line.name]:
                said[line.name] = text
                say(f"{line.name:<{width}}  {text}", err=True)

    def work() -> None:
        while not ended.wait(REDRAW_SECONDS):
            (draw if is_terminal else tell)()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if is_terminal:
            click.echo(f"{CLEAR_LINE}\n" * len(lines) + f"\x1b[{len(lines)}A", err=True, nl=False)
        else:
            tell()
