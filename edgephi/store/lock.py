"""One process at a time changes a store.

The lock is the kernel's (`flock`): it ends with the process that holds it, however that ends, so that none is
left over after a power cut. What is written into the file is for people, and for `recover` to tell whether
whoever began a trial still lives.
"""

import contextlib
import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from edgephi.errors import StoreBusyError
from edgephi.store.layout import Layout

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_RETRY_SECONDS = 0.05


@dataclass(frozen=True)
class Holder:
    """A process, on one start of the machine: its number alone would mean another process after the next."""

    pid: int
    boot_id: str
    purpose: str = ""

    def lives(self) -> bool:
        """Whether that process still runs."""
        return self.boot_id == boot_id() and Path(f"/proc/{self.pid}").exists()


class StoreLock:
    """The lock of a store, once it is taken. Closing it twice does nothing."""

    def __init__(self, layout: Layout, descriptor: int) -> None:
        self._layout = layout
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, layout: Layout, purpose: str, *, wait_seconds: float = 0.0) -> "StoreLock":
        """Lock the store. Raises StoreBusyError when another process holds it for `wait_seconds` more."""
        deadline = time.monotonic() + wait_seconds
        descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while not _try(descriptor):
                if time.monotonic() >= deadline:
                    raise StoreBusyError(
                        f"{layout.root}: {_described(layout)} changes this store right now",
                        hint="wait for it, then try again",
                    )
                time.sleep(_RETRY_SECONDS)
            _write(descriptor, Holder(os.getpid(), boot_id(), purpose))
        except BaseException:
            os.close(descriptor)
            raise
        return cls(layout, descriptor)

    def close(self) -> None:
        """Let others change the store."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # a full disk must not keep the lock
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def boot_id() -> str:
    """What names this start of the machine; empty where the system does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def holder(layout: Layout) -> Holder | None:
    """Who wrote into the lock's file last and still lives; None when nobody does."""
    try:
        plain = json.loads(layout.lock.read_bytes())
        found = Holder(int(plain["pid"]), str(plain["boot_id"]), str(plain["purpose"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.lives() else None


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(descriptor: int, who: Holder) -> None:
    text = json.dumps({"pid": who.pid, "boot_id": who.boot_id, "purpose": who.purpose}) + "\n"
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _described(layout: Layout) -> str:
    who = holder(layout)
    return f"edgephi {who.purpose} (process {who.pid})" if who else "another process"
