"""Power cuts of a drive with a cache: of what it was told since its last flush, any part may be lost.

A flash is recorded on a drive of our own (`recording_drive.py`). At random moments of the record everything
up to the last flush is kept, and of each sector written after that it is drawn whether it reached the
medium. That is harsher than a copy at an instant: later writes can be there without earlier ones.
"""

import contextlib
import dataclasses
import itertools
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.store.faults.aftermath import aftermath
from tests.store.faults.box import Box, must_succeed, ran
from tests.store.faults.bundles import Releases
from tests.store.faults.disks import EXT4_BYTES, format_ext4, mounted, run
from tests.store.faults.outcome import Outcome, Verdict, tried
from tests.store.faults.recording_drive import FILE_NAME, Flush, Write, read_record

PROGRAMS = ("mke2fs", "/dev/fuse")
_SECTOR_BYTES = 4096
_BLOCK_BYTES = 1 << 16


def lost_caches(
    scratch: Path,
    releases: Releases,
    cuts: int = 120,
    seed: int = 7,
    first: str = "",
    *,
    fault: str = "power cut in `flash`, part of the drive's cache lost",
) -> Outcome:
    """Record one flash of the new release over the old; look at `cuts` of the moments that it had.

    That flash begins with the statements `first`.
    """
    outcome = _lost_caches("flash", scratch, releases, cuts, seed, first)
    return dataclasses.replace(outcome, fault=fault)


def lost_caches_of_rollbacks(
    scratch: Path, releases: Releases, cuts: int = 80, seed: int = 7, first: str = ""
) -> Outcome:
    """Record a roll-back to the old release, which begins with the statements `first`."""
    return _lost_caches("rollback", scratch, releases, cuts, seed, first)


def _lost_caches(
    command: str, scratch: Path, releases: Releases, cuts: int, seed: int, first: str = ""
) -> Outcome:
    is_flash = command == "flash"

    def prepare(box: Box) -> None:
        must_succeed(box.flash(releases.old, *releases.options))
        if not is_flash:
            must_succeed(box.flash(releases.new, *releases.options))

    def recorded(box: Box) -> list[str]:
        flash = box.flash_command(releases.new, *releases.options)
        return flash if is_flash else box.command("rollback", box.root)

    def look(box: Box, case: str, has_ended: bool) -> Verdict:
        done = ("new" if is_flash else "old") if has_ended else None
        return aftermath(box, releases, case, done=done, in_rollback=not is_flash)

    fault = f"power cut in `{command}`, part of the drive's cache lost"
    return cut_off(fault, scratch, prepare, recorded, look, cuts=cuts, seed=seed, first=first)


def cut_off(
    fault: str,
    scratch: Path,
    prepare: Callable[[Box], None],
    command: Callable[[Box], list[str]],
    look: Callable[[Box, str, bool], Verdict],
    *,
    cuts: int,
    seed: int,
    first: str = "",
) -> Outcome:
    """Record a command, which begins with the statements `first`, on a store that `prepare` has made.

    `look` is given the store as each of `cuts` power cuts leaves it, and whether the command had ended.
    """
    record = scratch / "record"
    with _recording(scratch / "drive", record) as drive:
        format_ext4(drive)
        with mounted(drive, beside=scratch) as disk:
            box = Box(disk / "box")
            prepare(box)
            run("sync", "--file-system", disk)
            begin = sum(1 for _ in read_record(record))
            must_succeed(ran(command(Box(box.root, first))))
            end = sum(1 for _ in read_record(record))
    chance = random.Random(seed)
    # The last one is when the command has said that it is done.
    moments = [*_moments(record, begin, end, cuts - 1, chance), end]
    images = _images(record, moments, chance, scratch)

    def look_at(image: Path) -> Verdict:
        with mounted(image) as path:
            verdict = look(Box(path / "box"), image.name, image.name.endswith(f"-{end}"))
        image.unlink()
        return verdict

    outcome = tried(fault, images, look_at)
    record.unlink()
    return outcome


def _moments(record: Path, begin: int, end: int, cuts: int, chance: random.Random) -> list[int]:
    """Places in a record from `begin` to `end`: as many between two flushes as between any other two.

    Fewer places than flushes lie between flushes that are spread evenly.
    """
    flushes = [number for number, event in enumerate(read_record(record)) if isinstance(event, Flush)]
    spans = list(itertools.pairwise([begin, *(number for number in flushes if begin < number < end)]))
    if cuts < len(spans):
        spans = [spans[cut * len(spans) // cuts] for cut in range(cuts)]
    return sorted(chance.randint(*spans[cut % len(spans)]) for cut in range(cuts))


def _images(record: Path, moments: list[int], chance: random.Random, scratch: Path) -> Iterator[Path]:
    """What the drive holds after a power cut at each of the moments: files, made as they are asked for."""
    medium = bytearray(EXT4_BYTES)
    cached: list[Write] = []
    taken = 0
    waiting = iter(moments)
    moment = next(waiting, None)
    for number, event in enumerate(read_record(record)):
        while number == moment:
            left = bytearray(medium)
            for write in cached:
                for start in range(0, len(write.data), _SECTOR_BYTES):
                    if chance.random() < 0.5:
                        sector = write.data[start : start + _SECTOR_BYTES]
                        left[write.offset + start : write.offset + start + len(sector)] = sector
            image = scratch / f"cut-{taken:04}-at-{number}"
            taken += 1
            _write_sparse(image, left)
            yield image
            moment = next(waiting, None)
        match event:
            case Write():
                cached.append(event)
            case Flush():
                for write in cached:
                    medium[write.offset : write.offset + len(write.data)] = write.data
                cached.clear()


def _write_sparse(image: Path, data: bytearray) -> None:
    """Write a file that takes no room for what is zero."""
    nothing = bytes(_BLOCK_BYTES)
    with image.open("wb") as file:
        file.truncate(len(data))
        for start in range(0, len(data), _BLOCK_BYTES):
            if (block := data[start : start + _BLOCK_BYTES]) != nothing:
                file.seek(start)
                file.write(block)


@contextlib.contextmanager
def _recording(folder: Path, record: Path) -> Iterator[Path]:
    """The file of a recording drive, which another process serves."""
    folder.mkdir()
    module = "tests.store.faults.recording_drive"
    command = [sys.executable, "-m", module, str(folder), str(EXT4_BYTES), str(record)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "mounted\n":
            raise RuntimeError("the recording drive could not be mounted")
        try:
            yield folder / FILE_NAME
        finally:
            run("umount", folder)
            process.wait(30)
    folder.rmdir()
