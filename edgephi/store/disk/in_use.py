"""Which generations run right now: those are never removed.

Our own commands hold a shared lock on the folder of the generation that they opened. Any other program is
found by the files that it has open or mapped, as far as the kernel lets us look.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from edgephi.processes.file_lock import Process, process, try_lock, wait_for_lock
from edgephi.store.disk.layout import Layout

_PROCESSES = Path("/proc")
# Whoever may read a bundle may lock its folder, and keep gc from it. None may keep others from running it.
_LONGEST_HOLD_WAIT_SECONDS = 1.0


def hold(bundle: Path) -> None:
    """Say that this process uses a bundle, until it ends. Does nothing where that cannot be said."""
    with contextlib.suppress(OSError):
        descriptor = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY)
        # Waits for a moment where gc looks right now.
        if not wait_for_lock(descriptor, _LONGEST_HOLD_WAIT_SECONDS, shared=True):
            os.close(descriptor)
        # Else left open on purpose: the kernel closes it, and ends the lock, when the process ends.


@contextlib.contextmanager
def only_us(bundle: Path) -> Iterator[bool]:
    """Whether none of our commands uses a bundle; while the block runs, none can begin to."""
    descriptor = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


def is_open(layout: Layout, digest: str) -> bool:
    """Whether a process uses a generation, as far as we can see."""
    try:
        with only_us(layout.generation(digest)) as is_free:
            return not is_free or digest in opened_by_others(layout)
    except OSError:
        return False


def opened_by_others(layout: Layout) -> set[str]:
    """Digests of the generations of which some process has a file open or mapped, or in which it works."""
    generations = f"{layout.generations.resolve()}/"
    digests = set()
    for _, path in _open_paths():
        if path.startswith(generations):
            digests.add(path.removeprefix(generations).partition("/")[0])
    return digests


def user_of(folder: Path) -> Process | None:
    """A process that works in a folder, or has a file below it open or mapped, as far as we can see."""
    real = str(folder.resolve())
    for pid, path in _open_paths():
        if path == real or path.startswith(f"{real}/"):
            return process(pid)
    return None


def _open_paths() -> Iterator[tuple[int, str]]:
    """Every path that another process, which we may look into, has open or mapped, and that process."""
    for folder in _PROCESSES.iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        pid = int(folder.name)
        with contextlib.suppress(OSError):
            yield pid, os.readlink(folder / "cwd")  # noqa: PTH115 - as the kernel writes it
            for link in (folder / "fd").iterdir():
                with contextlib.suppress(OSError):
                    yield pid, os.readlink(link)  # noqa: PTH115
        with contextlib.suppress(OSError):
            for line in (folder / "maps").read_text(errors="replace").splitlines():
                place = line.find("/")
                if place >= 0:
                    yield pid, line[place:]
