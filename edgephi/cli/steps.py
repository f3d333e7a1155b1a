"""The steps of long work, on standard error: a bar while one runs on a terminal, then its time."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click

_TITLE_COLUMNS = 22
_CLEAR_LINE = "\r\x1b[K"


@contextlib.contextmanager
def step(title: str, size: int) -> Iterator[Callable[[int], None]]:
    """Show a step of `size` units of work, 0 when it cannot be measured; yields what counts units done."""
    start = time.perf_counter()
    label = f"{title:<{_TITLE_COLUMNS}}"
    interactive = sys.stderr.isatty()
    if interactive and size:
        with click.progressbar(length=size, label=label, file=sys.stderr, width=30) as bar:
            yield bar.update
    else:
        if interactive:
            click.echo(label, err=True, nl=False)
        yield lambda _units: None
    if interactive:
        # The bar ends its own line: go back up and put the result there.
        click.echo(("\x1b[A" if size else "") + _CLEAR_LINE, err=True, nl=False)
    click.echo(f"{label} {time.perf_counter() - start:6.1f} s", err=True)
