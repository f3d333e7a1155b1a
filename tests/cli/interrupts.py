"""Interrupt commands at moments of their whole time, as Ctrl-C does, and tell how each ended.

    python -m tests.cli.interrupts [--count 100] [--seed 1] [--signal INT] [--each | -- COMMAND...]

The signal goes to the whole group of processes, as a terminal sends it, at a moment between the first line
of `edgephi.cli.main.main` and the end of the command: a random one in each of COUNT equal parts of that time.
Without a command that is quickstart; with --each a build for every target, `run` and `bench` follow, a fifth
as often.
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import read_manifest
from edgephi.errors import EdgephiError
from tests.build.demo import build_demo

QUICKSTART = ("quickstart",)
TARGETS = ("cpu", "cuda", "gguf", "mlx", "openvino", "qnn")
_BUNDLE = "edgephi-demo"
_GIVEN = "given"  # the name of the bundle that commands find, and must leave as it is
_LEAST_SHARE = 0.4  # of signals that must end something: else the moments are wrong, and nothing is shown
_UNCLEAN = re.compile(r"Traceback|Exception ignored|Fatal|[Ss]egmentation|core dumped|Error|leaked")
_LONGEST_SECONDS = 120


@dataclass(frozen=True)
class Ending:
    """How a command ended that was interrupted `after_seconds`. `problems`: what should not be.

    `was_over`: it had ended by itself before.
    """

    after_seconds: float
    was_over: bool
    exit_code: int
    problems: tuple[str, ...]


def interrupted(
    after_seconds: float, folder: Path, words: Sequence[str] = QUICKSTART, number: int = signal.SIGINT
) -> Ending:
    """Call edgephi with `words` in a folder and interrupt it so long after its beginning."""
    # What a shell starts in its background ignores Ctrl-C, and so would what is started here.
    process = subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-X", "faulthandler", "-m", "edgephi.cli", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        start_new_session=True,
        encoding="utf-8",
    )
    _wait_until_ready(process)
    time.sleep(after_seconds)
    was_over = process.poll() is not None
    with contextlib.suppress(ProcessLookupError):
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
    return Ending(after_seconds, was_over, process.returncode, tuple(problems))


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
    if _UNCLEAN.search(said):
        problems.append(f"says\n{said}")
    left = {path.name for path in folder.iterdir()}
    if left - {_BUNDLE, _GIVEN}:
        problems.append(f"leaves {sorted(left)}")
    for name in left & {_BUNDLE, _GIVEN}:
        try:
            check_files(folder / name, read_manifest(folder / name))
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


def tried(words: Sequence[str], number: int, count: int, draw: random.Random, bundle: Path) -> int:
    """Interrupt a command `count` times, print how it ended, and return how often that was wrong."""
    codes: Counter[int] = Counter()
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / str(index) for index in range(count + 1)]
        for folder in folders:
            folder.mkdir()
            if _GIVEN in words:
                shutil.copytree(bundle, folder / _GIVEN)
        seconds = whole_seconds(folders.pop(), words)
        for index, folder in enumerate(folders):
            ending = interrupted((index + draw.random()) / count * seconds, folder, words, number)
            codes[ending.exit_code] += 1
            if ending.was_over:  # the machine was busier before: the next moments are earlier
                seconds = min(seconds, ending.after_seconds)
            if ending.problems:
                bad += 1
                print(f"  after {ending.after_seconds:.3f} s: {'; '.join(ending.problems)}", flush=True)
            shutil.rmtree(folder)
    told = ", ".join(f"{code}: {times}" for code, times in codes.most_common())
    said = f"{count} interrupted, {bad} badly; exit codes {told}"
    print(f"{' '.join(words)} ({seconds:.1f} s): {said}", flush=True)
    if codes[128 + number] < _LEAST_SHARE * count:
        print("  too few of the signals ended it")
        return max(bad, 1)
    return bad


def commands_of_each_kind(count: int) -> list[tuple[Sequence[str], int]]:
    """What --each interrupts, and how often."""
    builds = [("build", "demo", "--target", target, "-o", _BUNDLE) for target in TARGETS]
    uses = [("run", _GIVEN, "turn on the kitchen light"), ("bench", _GIVEN, "--runs", "2")]
    return [(QUICKSTART, count), *((words, max(1, count // 5)) for words in [*builds, *uses])]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--signal", default="INT", choices=["INT", "TERM", "HUP"])
    parser.add_argument("--each", action="store_true")
    parser.add_argument("words", nargs="*", default=list(QUICKSTART))
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    number = signal.Signals[f"SIG{asked.signal}"]
    commands = commands_of_each_kind(asked.count) if asked.each else [(asked.words, asked.count)]
    with tempfile.TemporaryDirectory() as scratch:
        bundle = build_demo("cpu", Path(scratch) / "bundle").folder
        return int(sum(tried(words, number, count, draw, bundle) for words, count in commands) > 0)


if __name__ == "__main__":
    sys.exit(main())
