"""Interrupt commands at random moments, as Ctrl-C does, and tell how each ended.

    python -m tests.cli.interrupts [--count 100] [--seed 1] [--signal INT] [-- COMMAND...]

The signal goes to the whole group of processes, as a terminal sends it, at a moment between the first line of
`edgephi.cli.main.main` and the end of the command.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgephi.errors import EdgephiError
from edgephi.manifest import read_manifest
from edgephi.runtime.bundle_files import check_files

QUICKSTART = ("quickstart",)
_BUNDLE = "edgephi-demo"
_UNCLEAN = re.compile(r"Traceback|Exception ignored|Fatal|[Ss]egmentation|core dumped|Error|leaked")
_LONGEST_SECONDS = 120


@dataclass(frozen=True)
class Ending:
    """How a command ended that was interrupted `after_seconds`. `problems`: what should not be."""

    after_seconds: float
    exit_code: int
    problems: tuple[str, ...]


def interrupted(
    after_seconds: float, folder: Path, words: Sequence[str] = QUICKSTART, number: int = signal.SIGINT
) -> Ending:
    """Call edgephi with `words` in an empty folder and interrupt it so long after its beginning."""
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-m", "edgephi.cli", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        start_new_session=True,
        encoding="utf-8",
    )
    _wait_until_ready(process)
    time.sleep(after_seconds)
    os.killpg(process.pid, number)
    try:
        _, err = process.communicate(timeout=_LONGEST_SECONDS)
        problems = _problems(process.returncode, err, folder, 128 + number)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        problems = ["does not end"]
    if _group_lives(process.pid):
        problems.append("leaves processes")
        os.killpg(process.pid, signal.SIGKILL)
    return Ending(after_seconds, process.returncode, tuple(problems))


def whole_seconds(folder: Path, words: Sequence[str] = QUICKSTART) -> float:
    """How long the command takes after its beginning when nobody interrupts it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgephi.cli", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )
    _wait_until_ready(process)
    start = time.monotonic()
    assert process.wait(_LONGEST_SECONDS) == 0
    return time.monotonic() - start


def _wait_until_ready(process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    """Return when the command handles signals: before that, Python itself is starting."""
    handled = re.compile(r"^SigCgt:\s*([0-9a-f]+)$", re.MULTILINE)
    while process.poll() is None:
        found = handled.search(Path(f"/proc/{process.pid}/status").read_text())
        if found is not None and int(found[1], 16) & (1 << (signal.SIGTERM - 1)):
            return
        time.sleep(0.001)


def _problems(exit_code: int, said: str, folder: Path, expected: int) -> list[str]:
    problems = []
    if exit_code not in (0, expected):
        problems.append(f"exit code {exit_code}")
    unclean = [line for line in said.splitlines() if _UNCLEAN.search(line)]
    if unclean:
        problems.append(f"says {unclean[0]!r}")
    left = {path.name for path in folder.iterdir()}
    if left - {_BUNDLE}:
        problems.append(f"leaves {sorted(left)}")
    elif left:
        try:
            check_files(folder / _BUNDLE, read_manifest(folder / _BUNDLE))
        except EdgephiError as error:
            problems.append(f"leaves a broken bundle: {error.message}")
    return problems


def _group_lives(group: int) -> bool:
    """Whether a process of the group still runs a moment later."""
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--signal", default="INT", choices=["INT", "TERM", "HUP"])
    parser.add_argument("words", nargs="*", default=list(QUICKSTART))
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    codes: Counter[int] = Counter()
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "whole").mkdir()
        seconds = whole_seconds(Path(scratch) / "whole", asked.words)
        print(f"uninterrupted: {seconds:.2f} s")
        for index in range(asked.count):
            folder = Path(scratch) / str(index)
            folder.mkdir()
            number = signal.Signals[f"SIG{asked.signal}"]
            ending = interrupted(draw.uniform(0, seconds), folder, asked.words, number)
            codes[ending.exit_code] += 1
            if ending.problems:
                bad += 1
                print(
                    f"{index}: after {ending.after_seconds:.3f} s: {'; '.join(ending.problems)}", flush=True
                )
    print(f"{asked.count} interrupted, {bad} badly; exit codes {dict(codes.most_common())}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
