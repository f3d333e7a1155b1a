"""Power cuts and SIGKILL in flashes that make an environment of a bundle's wheels before it can answer.

The bundles are small, and so are the wheels: an edgephi that answers at once, and packages with many folders.
What must hold after any flash must hold here as well, and every environment that has a name must be whole
(`whole_environments.py`).
"""

import dataclasses
import random
from pathlib import Path

from tests.store.environments.wheel_bundles import RUNTIME, runtime_wheel, wheel, wheel_bundle
from tests.store.faults import bad_disks, failing_calls, killed, lost_cache, power_cut
from tests.store.faults.bundles import Releases
from tests.store.faults.outcome import Outcome

PROGRAMS = (*power_cut.PROGRAMS, *lost_cache.PROGRAMS, *killed.PROGRAMS)
_FOLDERS = 6
_FILES = 24
_WORDS = ((1, "old"), (2, "new"))


def power_cuts(scratch: Path, _releases: Releases, cuts: int = 60) -> Outcome:
    """Cut the power at random instants of such a flash."""
    releases = releases_with_wheels(scratch)
    return power_cut.power_cuts(
        scratch, releases, cuts, fault="power cut in a `flash` that makes an environment"
    )


def lost_caches(scratch: Path, _releases: Releases, cuts: int = 60, first: str = "") -> Outcome:
    """The same, and a part of the drive's cache is lost. That flash begins with the statements `first`."""
    releases = releases_with_wheels(scratch)
    fault = "the same, part of the drive's cache lost"
    return lost_cache.lost_caches(scratch, releases, cuts, first=first, fault=fault)


def killed_flashes(scratch: Path, _releases: Releases, every: int = 1, first: str = "") -> Outcome:
    """Kill such a flash at each `every`-th of its calls. It begins with the statements `first`."""
    releases = releases_with_wheels(scratch)
    fault = "SIGKILL in a `flash` that makes an environment"
    return killed.killed_flashes(scratch, releases, every, first, fault=fault)


def failing_disks(scratch: Path, _releases: Releases, cases: int = 8) -> Outcome:
    """What lies below the disk takes no more, and ext4 learns of it when it writes an environment back."""
    releases = releases_with_wheels(scratch)
    fault = "writing back fails in such a `flash`"
    return bad_disks.failing_disks(scratch, releases, cases, step_bytes=300_000, fault=fault)


def failed_flashes(scratch: Path, _releases: Releases, error: str, every: int = 14) -> Outcome:
    """Have each `every`-th call of such a flash fail with an error: most of them are much like others."""
    outcome = failing_calls.failed_flashes(scratch, releases_with_wheels(scratch), error, every)
    return dataclasses.replace(outcome, fault=f"{error} in such a `flash`, at each {every}th call")


def releases_with_wheels(scratch: Path) -> Releases:
    """Two releases whose wheels have nothing in common, and whose engine no machine has."""
    old, new = (_release(scratch / f"release-{word}", word, number) for number, word in _WORDS)
    return Releases(old, new, ("--unsigned-wheels",))


def _release(folder: Path, word: str, sequence: int) -> Path:
    chance = random.Random(sequence)
    files = {
        f"package_{number % _FOLDERS}/module_{number}.py": f"# {word}\n".encode() + chance.randbytes(30_000)
        for number in range(_FILES)
    }
    wheels = {RUNTIME: runtime_wheel(word), "packages-1-py3-none-any.whl": wheel(files)}
    return wheel_bundle(folder, wheels, sequence=sequence, installed_bytes=sum(map(len, files.values())))
