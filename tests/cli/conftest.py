"""The command line as a shell calls it."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

Edgephi = Callable[..., subprocess.CompletedProcess[str]]
MAIN = "from edgephi.cli.main import main; main()"


@pytest.fixture(scope="session")
def edgephi() -> Edgephi:
    """Call `edgephi` with arguments in a process of its own.

    `before` is code that runs first, `python` that of another environment.
    """

    def call(
        *arguments: object, before: str = "", python: object = sys.executable, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        options.setdefault("stdin", None if "input" in options else subprocess.DEVNULL)
        if options["stdin"] is None:
            del options["stdin"]
        command = [str(python), "-c", f"{before}\n{MAIN}", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", timeout=120, check=False, **options
        )

    return call


def is_one_error(done: subprocess.CompletedProcess[str], exit_code: int) -> bool:
    """Whether a call failed as the contract says: nothing on stdout, one error line, one hint line."""
    lines = done.stderr.splitlines()
    return (
        (done.returncode, done.stdout) == (exit_code, "")
        and len(lines) == 2
        and lines[0].startswith("error: ")
        and lines[1].startswith("hint: ")
    )
