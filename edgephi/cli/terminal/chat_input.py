"""What a person types into `edgephi chat`: lines with editing and history, and texts of several lines."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TextIO

import click

from edgephi.cli.terminal.signals_while_typing import signals_arrive

QUOTES = '"""'
_MOST_LINES_OF_HISTORY = 1000

ReadLine = Callable[[str], str]
"""Reads a line after a prompt. Raises EOFError at the end of the input."""


def read_message(read_line: ReadLine, prompt: str) -> str:
    """The next message: one line, or all lines between two times three quotes.

    The end of the input ends a text of several lines, too. Raises EOFError when there is nothing more.
    """
    line = read_line(prompt)
    start = line.strip()
    if not start.startswith(QUOTES):
        return line
    lines = [start.removeprefix(QUOTES)]
    while not (lines[-1].rstrip().endswith(QUOTES)):
        try:
            lines.append(read_line("." * (len(prompt) - 1) + " "))
        except EOFError:
            break
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines).strip("\n")


def piped_lines(stream: TextIO) -> ReadLine:
    """Lines of a file or pipe, without prompts."""

    def read_line(_prompt: str) -> str:
        line = stream.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")

    return read_line


class TerminalLines:
    """Lines that a person edits, with a history of earlier ones; `typed` is what stands on the line now.

    A file for the history can be read by its owner only. Where it cannot be read or written, and where
    Python has no readline, there is none.
    """

    def __init__(self, history: Path | None, commands: Sequence[str]) -> None:
        self._readline = _readline()
        self._history: Path | None = None
        if self._readline is None:
            return
        self._readline.set_auto_history(False)
        self._readline.set_completer(_completer(commands))
        self._readline.set_completer_delims(" ")
        self._readline.parse_and_bind("tab: complete")
        if history is not None:
            with contextlib.suppress(OSError):
                _make_private_file(history)
                self._readline.read_history_file(history)
                self._history = history

    def read(self, prompt: str) -> str:
        """The next line. Raises EOFError at Ctrl-D on an empty line."""
        with signals_arrive():
            if sys.stdout.isatty():
                line = input(prompt)
            else:  # the prompt is nothing that belongs there
                click.echo(prompt, err=True, nl=False)
                line = input()
        self._remember(line)
        return line

    @property
    def typed(self) -> str:
        """What has been typed of the line that is being read."""
        return self._readline.get_line_buffer() if self._readline else ""

    def _remember(self, line: str) -> None:
        if self._readline is None or not line.strip() or "\0" in line:
            return
        for part in line.splitlines():  # a paste may have several
            self._readline.add_history(part)
            # Some builds of libedit, which stands in for readline on macOS, cannot append.
            if self._history is not None and hasattr(self._readline, "append_history_file"):
                self._readline.set_history_length(_MOST_LINES_OF_HISTORY)
                with contextlib.suppress(OSError):
                    self._readline.append_history_file(1, self._history)


def history_file() -> Path | None:
    """Where the history is kept; None for a user without a home."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if not Path(base).is_absolute():  # the standard says to ignore it then
        try:
            base = str(Path.home() / ".local/state")
        except RuntimeError:
            return None
    return Path(base) / "edgephi" / "chat_history"


def _make_private_file(file: Path) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _readline() -> ModuleType | None:
    try:
        import readline
    except ImportError:
        return None
    return readline


def _completer(commands: Sequence[str]) -> Callable[[str, int], str | None]:
    """Completes the first word of a line that begins with a slash."""

    def complete(text: str, state: int) -> str | None:
        found = [command for command in commands if text.startswith("/") and command.startswith(text)]
        return f"{found[state]} " if state < len(found) else None

    return complete
