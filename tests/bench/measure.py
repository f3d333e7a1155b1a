"""Run a command and say how long it took and how much memory it held at most."""

import contextlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgephi.cli.show.table import table

_POLL_SECONDS = 0.05
_FAMILY_SECONDS = 0.5  # this look costs more: the kernel walks through all pages


@dataclass(frozen=True)
class Cost:
    """Wall time in seconds, and the most memory in bytes that a process and its children held together."""

    seconds: float
    peak_bytes: int


def run(command: Sequence[str | Path], *, log: Path | None = None) -> Cost:
    """Run a command to its end. Raises SystemExit with its output when it fails."""
    output = log.open("wb") if log else subprocess.DEVNULL
    start = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=output, stderr=subprocess.STDOUT)
    peak_bytes, next_look = 0, start
    # wait4 would tell the largest one of the process and all its children. A process's high-water mark ends
    # with it, so it is read again and again until then. Those of children cannot be added up: what they share
    # with their parent would count twice.
    while process.poll() is None:
        peak_bytes = max(peak_bytes, high_water_mark(process.pid))
        if time.perf_counter() >= next_look:
            family = _family(process.pid)
            if len(family) > 1:
                peak_bytes = max(peak_bytes, sum(map(_proportional_bytes, family)))
            next_look = time.perf_counter() + _FAMILY_SECONDS
        time.sleep(_POLL_SECONDS)
    seconds = time.perf_counter() - start
    if process.returncode:
        tail = log.read_text(errors="replace")[-2000:] if log else ""
        raise SystemExit(f"{command} ended with {process.returncode}\n{tail}")
    return Cost(seconds, peak_bytes)


def _family(pid: int) -> list[int]:
    """A process, its children and theirs."""
    found = [pid]
    for parent in found:  # grows on the way
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # a thread that has ended meanwhile
                found += map(int, children.read_text().split())
    return found


def _proportional_bytes(pid: int) -> int:
    """What a process holds, pages that it shares divided among those who share them; 0 when it is gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    sizes = [line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")]
    return int(sizes[0]) * 1024 if sizes else 0


def high_water_mark(pid: int) -> int:
    """The largest resident set that a process has had so far, in bytes; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    marks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(marks[0]) * 1024 if marks else 0


def edgephi(*arguments: str | Path) -> list[str | Path]:
    """The command line of `edgephi` with this Python."""
    return [sys.executable, "-c", "from edgephi.cli.main import main; main()", *arguments]


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def machine() -> str:
    """The processor, its cores and the machine's memory, for the line above a table."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GB, Linux {platform.release()}"


def report(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print the machine and a table of results, numbers to the right."""
    print(machine())
    print(table(rows, header, right=range(1, len(header))), flush=True)
