"""A real control group with a limit of memory, for tests that run commands in it."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_numbers = itertools.count()


class CannotLimitError(Exception):
    """No control group can be made here; says why."""


@dataclass(frozen=True)
class ControlGroup:
    """A group of control groups' version 1 or 2."""

    folder: Path
    version: int

    def run(self, command: Sequence[object], **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, to its end."""
        # The shell enters the group and becomes the command: it is in it from its first page on.
        enter = ["sh", "-c", f'echo $$ > "{self.folder}/cgroup.procs" && exec "$@"', "-"]
        return subprocess.run(
            [*enter, *map(str, command)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, **variables},
        )

    @property
    def kills(self) -> int:
        """How many of its processes the kernel has killed for memory."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        words = (self.folder / name).read_text().split()
        return int(dict(zip(words[::2], words[1::2], strict=True))["oom_kill"])


@contextlib.contextmanager
def limited_memory(limit: int) -> Iterator[ControlGroup]:
    """A group whose processes get `limit` bytes together, cached files included, and no swap.

    Raises CannotLimitError where there is no memory controller, or none that we may use.
    """
    version = _version()
    name = f"edgephi-test-{os.getpid()}-{next(_numbers)}"
    group = ControlGroup((_MOUNT / "memory" if version == 1 else _MOUNT) / name, version)
    try:
        group.folder.mkdir()
        if version == 1:
            (group.folder / "memory.limit_in_bytes").write_text(str(limit))
            (group.folder / "memory.swappiness").write_text("0")
        else:
            (group.folder / "memory.max").write_text(str(limit))
            with contextlib.suppress(FileNotFoundError):  # a kernel without swap
                (group.folder / "memory.swap.max").write_text("0")
    except OSError as cause:
        with contextlib.suppress(OSError):
            group.folder.rmdir()
        raise CannotLimitError(f"no control group can be made here: {cause}") from None
    try:
        yield group
    finally:
        group.folder.rmdir()


def _version() -> int:
    """Which version's memory controller there is."""
    if shutil.which("sh") is None or not _MOUNT.is_dir():
        raise CannotLimitError("this system has no control groups")
    if (_MOUNT / "memory" / "memory.limit_in_bytes").exists():
        return 1
    controllers = _MOUNT / "cgroup.controllers"
    if not controllers.exists() or "memory" not in controllers.read_text().split():
        raise CannotLimitError(f"no memory controller below {_MOUNT}")
    try:
        (_MOUNT / "cgroup.subtree_control").write_text("+memory")
    except OSError as cause:
        raise CannotLimitError(f"no group below {_MOUNT} can limit memory: {cause}") from None
    return 2
