"""What the system knows about a process: the processor time it has used, and the memory it holds."""

import os
from pathlib import Path


def processor_seconds(pid: int) -> float:
    """Processor time of a process so far, all its threads together; 0 when it is gone."""
    try:
        # The name before the last ")" may hold anything; user and system time are fields 14 and 15.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except FileNotFoundError:
        return _without_proc(pid, "cpu_times")


def resident_bytes(pid: int) -> int:
    """Memory that a process holds, what it shares with others included; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return int(_without_proc(pid, "memory_info"))


def _without_proc(pid: int, fact: str) -> float:
    """The same from psutil, where there is no /proc; it is not worth its memory where there is."""
    if Path("/proc/self/stat").exists():
        return 0.0
    import psutil  # type: ignore[import-untyped]

    try:
        process = psutil.Process(pid)
        if fact == "memory_info":
            return float(process.memory_info().rss)
        times = process.cpu_times()
        return float(times.user + times.system)
    except psutil.Error:
        return 0.0
