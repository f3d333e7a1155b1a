"""One process at a time changes a store.

The lock is the kernel's (`edgephi.processes.file_lock`): it ends with the process that holds it, however that
ends, so that none is left over after a power cut. What is written into the file is for people, and for
`edgephi.store.recover` to tell whether whoever began a trial still lives.
"""

import contextlib
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from edgephi.commands import shell_command
from edgephi.errors import StoreBusyError
from edgephi.processes.file_lock import holder_of, is_open_as, open_lock, process, wait_for_lock
from edgephi.steps import Step, silent
from edgephi.store.disk.layout import Layout

LOCK_WAIT_SECONDS = 600.0
"""How long a command waits for another that changes the store: as long as most flashes take."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


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
    def take(
        cls, layout: Layout, purpose: str, *, wait_seconds: float = 0.0, step: Step = silent
    ) -> "StoreLock":
        """Lock the store. Raises StoreBusyError when another process holds it for `wait_seconds` more.

        While it waits, `step` shows for whom.
        """
        while True:
            descriptor = open_lock(layout.lock)
            try:
                if not wait_for_lock(descriptor, wait_seconds, step=step, who=lambda: described(layout)):
                    waited = f", and has for {wait_seconds:.0f} s" if wait_seconds >= 1 else ""
                    raise StoreBusyError(
                        f"{layout.root}: {described(layout)} changes this store right now{waited}",
                        hint="wait for it, then try again",
                    )
                if is_open_as(descriptor, layout.lock):  # else a flash that was refused has removed it
                    _write(descriptor, Holder(os.getpid(), boot_id(), purpose))
                    return cls(layout, descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

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


def _write(descriptor: int, who: Holder) -> None:
    text = json.dumps({"pid": who.pid, "boot_id": who.boot_id, "purpose": who.purpose}) + "\n"
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def described(layout: Layout) -> str:
    """Who holds the lock, in words for any user: the lock's file may be closed to us, the kernel tells."""
    noted, found = holder(layout), holder_of(layout.lock)
    if found is None:
        return str(process(noted.pid)) if noted else "another process"
    if noted is not None and noted.pid == found.pid and not found.command.startswith("edgephi "):
        found = dataclasses.replace(
            found, command=shell_command("edgephi", noted.purpose)
        )  # as its agent on a box
    return str(found)
