"""Looking at other processes of this machine."""

import psutil  # type: ignore[import-untyped]


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended; nobody may have taken notice of it yet."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def lives(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return not is_gone(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False
