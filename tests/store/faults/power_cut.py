"""Power cuts: the disk, copied at random instants of a flash, is what a box wakes up with.

The file system is ext4, the copy is a reflink on the btrfs below it. ext4 is not told: all that it had not
yet handed to the device is lost, and its journal is as it was. The flash is slowed down by a pause before
each of its calls that changes a file, so that the short steps are hit as often as the long ones.
"""

import dataclasses
import hashlib
import itertools
import random
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.store.faults import traced
from tests.store.faults.aftermath import aftermath
from tests.store.faults.box import Box, environment, must_succeed
from tests.store.faults.bundles import Releases
from tests.store.faults.disks import CopiedDisk, copied_disk, mounted, run
from tests.store.faults.outcome import Outcome, Verdict, tried

PROGRAMS = ("mkfs.btrfs", "mke2fs", "strace")
_PAUSE_MICROSECONDS = 20_000
_ROLLBACK_PAUSE_MICROSECONDS = 100_000  # it changes few files, and its probe would take most of the time
_MEAN_SECONDS_BETWEEN_CUTS = 0.1


@dataclass(frozen=True)
class _Copy:
    """The disk as it was at one instant; `has_ended`: by then, the flash had said that it is done."""

    image: Path
    has_ended: bool


def power_cuts(
    scratch: Path,
    releases: Releases,
    cuts: int = 120,
    seed: int = 5,
    *,
    fault: str = "power cut in `flash`",
) -> Outcome:
    """Cut the power `cuts` times in a flash, at instants drawn from `seed`; look at what each left."""
    return _power_cuts("flash", fault, scratch, releases, cuts, seed)


def power_cuts_of_rollbacks(scratch: Path, releases: Releases, cuts: int = 80, seed: int = 6) -> Outcome:
    """Cut the power in a roll-back from the new release to the old one."""
    return _power_cuts("rollback", "power cut in `rollback`", scratch, releases, cuts, seed)


def _power_cuts(name: str, fault: str, scratch: Path, releases: Releases, cuts: int, seed: int) -> Outcome:
    is_rollback = name == "rollback"
    instants = random.Random(seed)
    with copied_disk(scratch) as disk:
        installed = Box(disk.path / "installed")
        must_succeed(installed.flash(releases.old, *releases.options))
        if is_rollback:
            must_succeed(installed.flash(releases.new, *releases.options))
        copies: list[_Copy] = []
        while len(copies) < cuts:
            box = Box(disk.path / "box")
            shutil.rmtree(box.root, ignore_errors=True)
            run("cp", "--archive", installed.root, box.root)
            run("sync", "--file-system", disk.path)
            flash = box.flash_command(releases.new, *releases.options)
            command = box.command(name, box.root) if is_rollback else flash
            pause = _ROLLBACK_PAUSE_MICROSECONDS if is_rollback else _PAUSE_MICROSECONDS
            copies += _copies_while(command, pause, disk, instants, len(copies), cuts)

        same = [list(group) for _, group in itertools.groupby(copies, key=_content)]

        def look(group: list[_Copy]) -> Verdict:
            first = group[0]
            with mounted(first.image) as path:
                goal = "old" if is_rollback else "new"
                done = goal if any(copy.has_ended for copy in group) else None
                verdict = aftermath(
                    Box(path / "box"), releases, first.image.name, done=done, in_rollback=is_rollback
                )
            for copy in group:
                copy.image.unlink()
            return dataclasses.replace(verdict, times=len(group))

        return tried(fault, same, look)


def _content(copy: _Copy) -> bytes:
    """What tells disks apart: of instants between which nothing was written, one is looked at for all."""
    with copy.image.open("rb") as image:
        return hashlib.file_digest(image, "blake2b").digest()


def _copies_while(
    command: list[str], pause: int, disk: CopiedDisk, instants: random.Random, taken: int, cuts: int
) -> list[_Copy]:
    """Copies of the disk at random instants while a command runs; with the `taken` ones at most `cuts`."""
    copies: list[_Copy] = []
    slow = traced.slowed(command, (*traced.DURABLE, *traced.NAMING, *traced.WRITING), pause)
    with subprocess.Popen(
        slow, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None and taken + len(copies) < cuts:
            time.sleep(instants.expovariate(1 / _MEAN_SECONDS_BETWEEN_CUTS))
            copies.append(_Copy(disk.copy(f"cut-{taken + len(copies):04}"), False))
        _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the command that was to be cut off ended with {process.returncode}: {errors!r}")
    if taken + len(copies) < cuts:  # what the command has said to be done is done
        copies.append(_Copy(disk.copy(f"cut-{taken + len(copies):04}"), True))
    return copies
