"""`edgephi` as a user runs it against a hostile other side, and what that came to."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.cli.conftest import MAIN

LIMIT_SECONDS = 60.0
STEERING_BYTES = (b"\x1b", b"\x07", "\u202e".encode(), b"\x9b")
_TURNS = (b"\r\x1b[K", b"\x1b[2m", b"\x1b[0m")
"""What edgephi itself draws with."""


@dataclass(frozen=True)
class Ended:
    """How a client ended. `code` None: not by itself. `steering` counts what would steer a terminal."""

    code: int | None
    seconds: float
    peak_bytes: int
    output: bytes
    errors: bytes
    steering: int

    @property
    def message(self) -> str:
        """Its error, in one line."""
        lines = [
            each for each in self.errors.decode(errors="replace").splitlines() if each.startswith("error: ")
        ]
        return lines[-1] if lines else ""

    @property
    def is_bug(self) -> bool:
        """Whether it took what it met for a fault of its own."""
        return b"bug in edgephi" in self.errors or b"Traceback" in self.errors


def run_client(*arguments: object, environment: Mapping[str, str], folder: Path) -> Ended:
    """Run a command; one that does not end is killed. What it says goes into files of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    output, errors = folder / "output", folder / "errors"
    begun = time.monotonic()
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **environment},
        )
        code: int | None = None
        peak = 0
        while code is None and time.monotonic() - begun < LIMIT_SECONDS:
            time.sleep(0.05)
            peak = max(peak, _peak_bytes(process.pid))
            code = process.poll()
        if code is None:
            process.kill()
            process.wait()
    said = output.read_bytes() + errors.read_bytes()
    foreign = said
    for own in _TURNS:
        foreign = foreign.replace(own, b"")
    steering = sum(map(foreign.count, STEERING_BYTES[:3]))
    return Ended(code, time.monotonic() - begun, peak, output.read_bytes(), errors.read_bytes(), steering)


def _peak_bytes(pid: int) -> int:
    """The most memory that a process has had; the kernel's own number for it counts its parent's, too."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) << 10 if found else 0
    return 0
