"""A command on a terminal of its own: what a person types, and what is seen."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from tests.cli.conftest import MAIN

# What a terminal emulator does before it starts a shell, so that Ctrl-C becomes a signal.
_OWN_TERMINAL = """
import fcntl, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
fcntl.ioctl(0, termios.TIOCSWINSZ, b"\\x18\\x00\\x50\\x00\\x00\\x00\\x00\\x00")
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
CTRL_C, CTRL_D, UP, TAB = "\x03", "\x04", "\x1b[A", "\t"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")
_SECONDS = 60


class Terminal:
    """`edgephi` with arguments, on a terminal of 80 columns and 24 rows."""

    def __init__(self, *arguments: object, environment: Mapping[str, str]) -> None:
        self.screen, end = pty.openpty()
        words: Sequence[str] = [sys.executable, "-c", _OWN_TERMINAL + MAIN, *map(str, arguments)]
        self.process = subprocess.Popen(
            words,
            stdin=end,
            stdout=end,
            stderr=end,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", **environment},
        )
        os.close(end)
        self.raw = b""
        self._seen = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.screen)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.screen, text.encode())

    def enter(self, text: str) -> None:
        """Type a line, and Enter."""
        self.type(text + "\r")

    def wait_for(self, text: str) -> str:
        """All that has come since the last call, up to and with `text`; without escape sequences."""
        end = time.monotonic() + _SECONDS
        while text not in self._new():
            ready, _, _ = select.select([self.screen], [], [], max(0, end - time.monotonic()))
            assert ready, f"expected {text!r}, found {self._new()!r}"
            try:
                data = os.read(self.screen, 4096)
            except OSError:  # what a terminal says when its last program has ended
                data = b""
            assert data, f"expected {text!r}, found the end after {self._new()!r}"
            self.raw += data
        new = self._new()
        self._seen += new.index(text) + len(text)
        return new[: new.index(text) + len(text)]

    def exit_code(self) -> int:
        """How the program ended, once it has."""
        return self.process.wait(_SECONDS)

    def _new(self) -> str:
        text = _ESCAPES.sub("", self.raw.decode(errors="ignore")).replace("\r\n", "\n")
        return text[self._seen :]
