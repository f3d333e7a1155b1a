"""Two commands at once on one store, and one that begins at a random moment of another.

One of them changes the store; the other waits or is told that the store is busy. Whatever the order, the
store is whole, and what ended with 0 has happened.
"""

import random
import tempfile
import time
from pathlib import Path

from tests.store.faults import traced
from tests.store.faults.aftermath import aftermath
from tests.store.faults.box import Box, BrokenStoreError, digest_of, ends_well, must_succeed, store_like
from tests.store.faults.bundles import Releases
from tests.store.faults.outcome import Outcome, Verdict, tried
from tests.store.faults.processes import ended, started

PROGRAMS = ("strace",)
OTHERS = ("flash", "gc", "rollback", "status", "status --scrub")
_PAUSE_MICROSECONDS = 10_000
_LONGEST_WAIT_SECONDS = 2.0


def two_at_once(scratch: Path, releases: Releases, times: int = 4, seed: int = 19) -> Outcome:
    """Run each other command `times` times at a random moment of a flash that is slowed down."""
    chance = random.Random(seed)
    prepared = Box(scratch / "together")
    must_succeed(prepared.flash(releases.old))

    def one(case: tuple[str, float]) -> Verdict:
        other, wait = case
        with store_like(prepared, scratch) as box:
            command = box.flash_command(releases.new)
            changing = (*traced.WRITING, *traced.NAMING, *traced.DURABLE)
            with started(traced.slowed(command, changing, _PAUSE_MICROSECONDS)) as flash:
                time.sleep(wait)
                name, *options = other.split()
                second = box.flash(releases.new) if name == "flash" else box.on(name, *options)
                first = ended(flash)
            for done in (first, second):
                if not ends_well(done):
                    return Verdict(broken=f"{case}: {done.args}: {done.returncode}: {done.stderr}")
            if other == "flash" and first.returncode and second.returncode:
                return Verdict(
                    broken=f"{case}: neither flash came to its end: {first.stderr} {second.stderr}"
                )
            return aftermath(box, releases, case, in_flash=False)

    cases = [(other, chance.uniform(0, _LONGEST_WAIT_SECONDS)) for other in OTHERS for _ in range(times)]
    return tried("two commands at once", cases, one)


def first_flashes_at_once(scratch: Path, releases: Releases, times: int = 8, seed: int = 23) -> Outcome:
    """Begin a flash into a folder that is not there yet at a random moment of another that is slowed down.

    Both must succeed: one makes the store while the other waits, and finds the bundle active.
    """
    chance = random.Random(seed)

    def one(wait: float) -> Verdict:
        with tempfile.TemporaryDirectory(dir=scratch, prefix="first-") as folder:
            box = Box(Path(folder) / "box")
            command = box.flash_command(releases.new)
            changing = (*traced.WRITING, *traced.NAMING, *traced.DURABLE)
            with started(traced.slowed(command, changing, _PAUSE_MICROSECONDS)) as slow:
                time.sleep(wait)
                second = box.flash(releases.new)
                first = ended(slow)
            try:
                must_succeed(first)
                must_succeed(second)
                must_succeed(box.on("status", "--scrub"))
                if box.check() != digest_of(releases.new):
                    raise BrokenStoreError("another bundle is active")
                if left := box.leftovers():
                    raise BrokenStoreError(f"left over: {', '.join(left)}")
            except BrokenStoreError as broken:
                return Verdict(broken=f"after {wait:.3f} s: {broken}")
            return Verdict("new", finished=True)

    cases = [chance.uniform(0, _LONGEST_WAIT_SECONDS) for _ in range(times)]
    return tried("two first flashes at once", cases, one)
