"""Two commands at once on one store, and one that begins at a random moment of another.

One of them changes the store; the other waits or is told that the store is busy. Whatever the order, the
store is whole, and what ended with 0 has happened.
"""

import random
import time
from pathlib import Path

from tests.store.faults import traced
from tests.store.faults.aftermath import aftermath
from tests.store.faults.box import Box, ends_well, must_succeed, store_like
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
