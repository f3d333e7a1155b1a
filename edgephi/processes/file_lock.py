"""Locks between our processes: nobody else can take them, nobody waits for ever, and who holds one is told.

They are the kernel's (`flock`), and end with the process that holds them. Any user who may open a file, were
it only to read, can lock it and keep it so: therefore a lock's file is for its owner alone. Standard library
only.
"""

import contextlib
import errno
import fcntl
import os
import pwd
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgephi.commands import PROGRAM, PROGRAM_MODULE, shell_command
from edgephi.guards.visible import visible
from edgephi.steps import Step, silent

_OURS_ONLY = 0o600
_OTHERS = 0o077
_LOCKS = Path("/proc/locks")
_PROCESSES = Path("/proc")
_RETRY_SECONDS = 0.05
_LOOK_SECONDS = 1.0
_LONGEST_SHOWN = 80


@dataclass(frozen=True)
class Process:
    """A process that holds a lock. `user` and `command` are "" where the system does not tell."""

    pid: int
    user: str = ""
    command: str = ""

    def __str__(self) -> str:
        """The process in words, such as: process 123 (user bob, `edgephi flash …`)."""
        facts = [f"user {visible(self.user)}"] if self.user else []
        facts += [f"`{self.command}`"] if self.command else []
        return f"process {self.pid} ({', '.join(facts)})" if facts else f"process {self.pid}"


def open_lock(path: Path) -> int:
    """Open the file of a lock, which is made where there is none. Returns its descriptor. Raises OSError.

    It is readable by its owner only, from now on where it was not before. What root makes in the folder of
    another user is that one's. A link is not followed: it could lead root to any file.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _OURS_ONLY)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
            raise OSError(errno.EINVAL, "expected a plain file to lock, found something else", str(path))
        if not _is_named_only(facts, path):
            return descriptor
        if facts.st_mode & _OTHERS:
            with contextlib.suppress(PermissionError):  # another user's, who has to do it
                os.fchmod(descriptor, _OURS_ONLY)
        if os.geteuid() == 0 == facts.st_uid:
            folder = path.parent.stat()
            if folder.st_uid:
                os.fchown(descriptor, folder.st_uid, folder.st_gid)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_named_only(facts: os.stat_result, path: Path) -> bool:
    """Whether an open file has this name and no other, as far as one look can tell.

    Else it may be root's own, of which the folder's owner has had a second name there for a moment.
    """
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(facts, named) and named.st_nlink == 1


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file or folder; False when another process has it."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(
    descriptor: int,
    wait_seconds: float,
    *,
    shared: bool = False,
    step: Step = silent,
    who: Callable[[], str] | None = None,
    progress: Callable[[], object] | None = None,
) -> bool:
    """Lock an open file, after at most `wait_seconds`; whether that came about.

    While it waits, `step` shows for whom. `progress` is what the holder changes as it works: when it has, the
    time begins anew.
    """
    if try_lock(descriptor, shared=shared):
        return True
    told = who or (lambda: str(holder_of(descriptor) or "another process"))
    end, seen = time.monotonic() + wait_seconds, progress and progress()
    while time.monotonic() < end:
        holder = told()
        with step(f"wait for {holder}", 0):
            while time.monotonic() < end and told() == holder:
                look = min(end, time.monotonic() + _LOOK_SECONDS)
                while time.monotonic() < look:
                    time.sleep(_RETRY_SECONDS)
                    if try_lock(descriptor, shared=shared):
                        return True
                if progress is not None and (now := progress()) != seen:
                    end, seen = time.monotonic() + wait_seconds, now
    return try_lock(descriptor, shared=shared)


def is_open_as(descriptor: int, path: Path) -> bool:
    """Whether `path` still names the file that is open: else its lock locks out nobody."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def holder_of(file: int | Path) -> Process | None:
    """The process that has locked an open file, or that at a path; None when the kernel does not tell."""
    with contextlib.suppress(OSError):
        facts = os.fstat(file) if isinstance(file, int) else file.stat()
        found = [(device, pid) for device, inode, pid in _locks() if inode == facts.st_ino and pid > 0]
        # Some file systems show another device to those who ask for a file's.
        same = [pid for device, pid in found if device == facts.st_dev] or [pid for _, pid in found]
        if same:
            lives = (_PROCESSES / str(same[0])).exists()
            # The one that locked it may have ended, and another may have inherited the open file.
            return process(same[0] if lives else next(_openers(facts), same[0]))
    return None


def process(pid: int) -> Process:
    """What the system tells everybody about a process."""
    folder = _PROCESSES / str(pid)
    user = command = ""
    with contextlib.suppress(OSError, IndexError):
        words = (folder / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
        command = _shortened(_our_words([word for word in words if word]))
    with contextlib.suppress(OSError):
        number = folder.stat().st_uid
        user = str(number)
        with contextlib.suppress(KeyError):
            user = pwd.getpwuid(number).pw_name
    return Process(pid, user, command)


def _openers(facts: os.stat_result) -> Iterator[int]:
    """The other processes that have a file open, as far as we may look into them."""
    for folder in _PROCESSES.iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                for link in (folder / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        if os.path.samestat(link.stat(), facts):
                            yield int(folder.name)


def _locks() -> Iterator[tuple[int, int, int]]:
    """Device, inode and process of every lock of this kind that is held."""
    for line in _LOCKS.read_text().splitlines():
        _, kind, *_, pid, place, _, _ = [*line.split(), *[""] * 8][:8]
        if kind == "FLOCK" and pid.lstrip("-").isdecimal() and place.count(":") == 2:
            major, minor, inode = place.split(":")
            yield os.makedev(int(major, 16), int(minor, 16)), int(inode), int(pid)


def _our_words(words: list[str]) -> list[str]:
    """A command as its user typed it: without the Python that runs edgephi."""
    for place, word in enumerate(words[:5]):
        if os.path.basename(word) == PROGRAM or word == PROGRAM_MODULE:  # noqa: PTH119 - a word, not a path
            return [PROGRAM, *words[place + 1 :]]
    return words


def _shortened(words: list[str]) -> str:
    text = shell_command(*words)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"
