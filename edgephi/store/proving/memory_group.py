"""A control group that limits the memory of one process: the kernel ends it in the moment it takes more.

Looking at a process now and then misses what it takes in between, and by then the kernel may have ended
another one. Control groups are of version 2 or 1 (Linux, Documentation/admin-guide/cgroup-v2.rst and
cgroup-v1/memory.rst). Where they cannot be written, as for most users without root, there is none.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_PREFIX = "edgephi-probe-"
_MEMORY = "memory"
_LIMIT, _LIMIT_1 = "memory.max", "memory.limit_in_bytes"
_SWAP, _SWAPPINESS_1 = "memory.swap.max", "memory.swappiness"
_EVENTS, _EVENTS_1 = "memory.events", "memory.oom_control"
_REMOVE_TRIES, _REMOVE_SECONDS = 20, 0.01
_numbers = itertools.count()


@dataclass(frozen=True)
class MemoryGroup:
    """A control group in folder `folder`."""

    folder: Path

    def take(self, pid: int) -> None:
        """Have a process that has just begun in the group. What it took before is not counted."""
        with contextlib.suppress(OSError):  # it has ended
            (self.folder / "cgroup.procs").write_text(str(pid))

    @property
    def has_killed(self) -> bool:
        """Whether the kernel has ended a process of the group because it took too much."""
        for name in (_EVENTS, _EVENTS_1):
            with contextlib.suppress(OSError):
                lines = (self.folder / name).read_text().splitlines()
                return any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in lines)
        return False


@contextlib.contextmanager
def limited_memory(size: int) -> Iterator[MemoryGroup | None]:
    """A group whose processes get `size` bytes together and no swap; None where none can be made.

    Its processes must have ended when the block does.
    """
    group = next(filter(None, (_made(parent, size) for parent in _parents())), None)
    try:
        yield group
    finally:
        if group is not None:
            _remove(group.folder)


def _parents() -> Iterator[Path]:
    """The groups in which one could be made: our own first, then those above it."""
    try:
        lines = _OWN.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number != "0" and _MEMORY not in controllers.split(","):
            continue
        mount = _MOUNT if number == "0" else _MOUNT / _MEMORY
        own = mount / path.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(mount))


def _made(parent: Path, size: int) -> MemoryGroup | None:
    """A group with a limit below another one; None when the kernel does not let us."""
    folder = parent / f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
    try:
        for left in parent.glob(f"{_PREFIX}*"):  # by one that was killed; one in use stays
            with contextlib.suppress(OSError):
                left.rmdir()
        folder.mkdir()
    except OSError:
        return None
    try:
        limit = folder / (_LIMIT_1 if (folder / _LIMIT_1).exists() else _LIMIT)
        if not limit.exists():  # version 2: those above have not handed the controller down
            raise FileNotFoundError(limit)
        limit.write_text(str(size))
        for name in (_SWAP, _SWAPPINESS_1):
            with contextlib.suppress(OSError):
                if (folder / name).exists():
                    (folder / name).write_text("0")
    except OSError:
        _remove(folder)
        return None
    return MemoryGroup(folder)


def _remove(folder: Path) -> None:
    """Remove a group; the kernel may need a moment after its last process."""
    for _ in range(_REMOVE_TRIES):
        try:
            folder.rmdir()
        except OSError:
            time.sleep(_REMOVE_SECONDS)
        else:
            return
