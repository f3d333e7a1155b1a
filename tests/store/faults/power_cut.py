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
    """Cut the power `cuts` times, at instants drawn from `seed`, and look at what each left."""
    instants = random.Random(seed)
    with copied_disk(scratch) as disk:
        installed = Box(disk.path / "installed")
        must_succeed(installed.flash(releases.old, *releases.options))
        copies: list[_Copy] = []
        while len(copies) < cuts:
            box = Box(disk.path / "box")
            shutil.rmtree(box.root, ignore_errors=True)
            run("cp", "--archive", installed.root, box.root)
            run("sync", "--file-system", disk.path)
            command = box.flash_command(releases.new, *releases.options)
            copies += _copies_while(command, disk, instants, len(copies), cuts)

        same = [list(group) for _, group in itertools.groupby(copies, key=_content)]

        def look(group: list[_Copy]) -> Verdict:
            first = group[0]
            with mounted(first.image) as path:
                done = "new" if any(copy.has_ended for copy in group) else None
                verdict = aftermath(Box(path / "box"), releases, first.image.name, done=done)
            for copy in group:
                copy.image.unlink()
            return dataclasses.replace(verdict, times=len(group))

        return tried(fault, same, look)


def _content(copy: _Copy) -> bytes:
    """What tells disks apart: of instants between which nothing was written, one is looked at for all."""
    with copy.image.open("rb") as image:
        return hashlib.file_digest(image, "blake2b").digest()


def _copies_while(
    command: list[str], disk: CopiedDisk, instants: random.Random, taken: int, cuts: int
) -> list[_Copy]:
    """Copies of the disk at random instants while a command runs; with the `taken` ones at most `cuts`."""
    copies: list[_Copy] = []
    slow = traced.slowed(command, (*traced.DURABLE, *traced.NAMING, *traced.WRITING), _PAUSE_MICROSECONDS)
    with subprocess.Popen(
        slow, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None and taken + len(copies) < cuts:
            time.sleep(instants.expovariate(1 / _MEAN_SECONDS_BETWEEN_CUTS))
            copies.append(_Copy(disk.copy(f"cut-{taken + len(copies):04}"), False))
        _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the flash that was to be cut off ended with {process.returncode}: {errors!r}")
    if taken + len(copies) < cuts:  # what the command has said to be done is done
        copies.append(_Copy(disk.copy(f"cut-{taken + len(copies):04}"), True))
    return copies
