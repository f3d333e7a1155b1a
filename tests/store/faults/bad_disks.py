"""Disks that are full, that fail, and that may not be written to: real file systems on loop devices."""

import os
import time
from pathlib import Path

from tests.store.faults import traced
from tests.store.faults.aftermath import aftermath
from tests.store.faults.box import Box, Phase, ends_well, must_succeed
from tests.store.faults.bundles import Releases
from tests.store.faults.disks import EXT4_BYTES, fill, make_ext4, memory_disk, mounted, run
from tests.store.faults.outcome import Outcome, Verdict, tried
from tests.store.faults.processes import ended, started

PROGRAMS = ("mke2fs", "strace")
_PAUSE_MICROSECONDS = 20_000
_LOOK_SECONDS = 0.002


def full_disks(scratch: Path, releases: Releases, cases: int = 12) -> Outcome:
    """Another program fills the disk while a release is flashed, in another phase each time."""
    order = list(Phase)
    targets = (Phase.BEFORE, Phase.FETCH, Phase.OBJECTS, Phase.GENERATION, Phase.PROBE, Phase.TRIAL)

    def one(number: int) -> Verdict:
        image = make_ext4(scratch / f"full-{number}")
        with mounted(image) as disk:
            box = Box(disk / "box")
            must_succeed(box.flash(releases.old))
            command = traced.slowed(
                box.flash_command(releases.new), (*traced.WRITING, *traced.NAMING), _PAUSE_MICROSECONDS
            )
            with started(command) as process:
                target = targets[number % len(targets)]
                while process.poll() is None and order.index(box.phase(releases.new)) < order.index(target):
                    time.sleep(_LOOK_SECONDS)
                filler = fill(disk)
                done = ended(process)
            if not ends_well(done):
                return Verdict(broken=f"{number}: ended with {done.returncode}: {done.stderr}")
            status = box.on("status")  # while the disk is full: it must say what there is
            filler.unlink()
            if status.returncode:
                return Verdict(broken=f"{number}: status on a full disk: {status.stderr}")
            verdict = aftermath(box, releases, number, done=None if done.returncode else "new")
        image.unlink()
        return verdict

    return tried("disk filled while flashing", range(cases), one)


def failing_disks(
    scratch: Path,
    releases: Releases,
    cases: int = 8,
    *,
    step_bytes: int = 1 << 20,
    fault: str = "writing back fails (EIO from the device)",
) -> Outcome:
    """What lies below the disk cannot take any more: writing back fails, and fsync says so.

    The image of the file system is sparse and lies in memory that is full but for `step_bytes` more in each
    case. ext4 accepts every write, and learns of the error when it hands it on.
    """

    def one(number: int) -> Verdict:
        with memory_disk(scratch / f"failing-{number}", f"{(EXT4_BYTES >> 20) + 8}m") as memory:
            image = make_ext4(memory / f"image-{number}")
            with mounted(image, beside=scratch) as disk:
                box = Box(disk / "box")
                must_succeed(box.flash(releases.old, *releases.options))
                run("sync", "--file-system", disk)
                filler = fill(memory)
                os.truncate(filler, max(0, filler.stat().st_size - number * step_bytes))
                done = box.flash(releases.new, *releases.options)
                if not ends_well(done):
                    return Verdict(broken=f"{number}: ended with {done.returncode}: {done.stderr}")
            filler.unlink()
            with mounted(image, beside=scratch) as disk:  # another cable, another start
                return aftermath(Box(disk / "box"), releases, number, done=None if done.returncode else "new")

    return tried(fault, range(cases), one)


def read_only_disks(scratch: Path, releases: Releases) -> Outcome:
    """The file system is mounted read-only: what changes a store refuses, `status` and `run` work."""
    prepared = make_ext4(scratch / "prepared")
    with mounted(prepared) as disk:
        must_succeed(Box(disk / "box").flash(releases.old))

    def one(command: str) -> Verdict:
        image = scratch / f"read-only-{command}"
        run("cp", "--sparse=always", prepared, image)
        with mounted(image, "ro") as disk:
            box = Box(disk / "box")
            match command:
                case "flash":
                    done = box.flash(releases.new)
                case "run":
                    done = box.answer("turn on the kitchen light")
                case _:
                    done = box.on(command)
            if not ends_well(done) or (done.returncode == 0) != (command in ("status", "run")):
                return Verdict(broken=f"{command}: ended with {done.returncode}: {done.stderr}")
        with mounted(image) as disk:
            verdict = aftermath(Box(disk / "box"), releases, command)
        image.unlink()
        return verdict

    return tried("read-only disk", ("flash", "status", "run", "rollback", "gc"), one)
