"""How the commands print: whatever stands in a text, it does not steer the terminal.

`edgephi.guards.visible` sees to that. Only what draws by itself (bars, the line that an answer is awaited on)
writes to a terminal in another way, and makes the words in it visible before.
"""

import json
import sys
from typing import Any

import click

from edgephi.cli.show.lines.wrapped import WrappedText
from edgephi.guards.visible import VisibleAnswer, visible, visible_json, visible_lines


def say(text: str = "", *, err: bool = False, nl: bool = True, dim: bool = False) -> None:
    """Print a text whose letters all show, to standard error with `err`."""
    shown = visible_lines(text)
    click.echo(click.style(shown, dim=True) if dim else shown, err=err, nl=nl)


def say_document(value: Any) -> None:
    """Print plain data as one JSON document; it has exactly that value, also on a terminal."""
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    say_json(json.dumps(value, indent=2, ensure_ascii=not is_unicode))


def say_json(document: str, *, nl: bool = True) -> None:
    """Print a JSON document: into a pipe or a file as it is, on a terminal with escapes of the same value."""
    click.echo(visible_json(document) if sys.stdout.isatty() else document, nl=nl)


def say_exactly(text: str, *, nl: bool = True) -> None:
    """Print what a program reads, such as a path: as it is, but on a terminal so that all of it shows."""
    click.echo(visible_lines(text) if sys.stdout.isatty() else text, nl=nl)


def error_lines(message: str, hint: str) -> str:
    """An error as every command shows it: one line, and one for its hint."""
    return "\n".join(
        f"{label}: {visible(' '.join(map(str.strip, text.splitlines())))}"
        for label, text in (("error", message), ("hint", hint))
    )


class SaidAnswer:
    """A model's answer on standard output, as it is written: exactly, but visibly on a terminal.

    `wrapped`: on a terminal, lines are broken between words.
    """

    def __init__(self, *, wrapped: bool = False) -> None:
        at_terminal = sys.stdout.isatty()
        self._visible = VisibleAnswer() if at_terminal else None
        self._wrapped = WrappedText() if at_terminal and wrapped else None

    def add(self, piece: str) -> None:
        """Print what follows."""
        shown = self._visible.add(piece) if self._visible else piece
        click.echo(self._wrapped.add(shown) if self._wrapped else shown, nl=False)  # flushes each piece

    def end(self) -> None:
        """End the answer's last line."""
        shown = self._visible.end() if self._visible else ""
        click.echo(self._wrapped.add(shown) + self._wrapped.end() if self._wrapped else shown)
