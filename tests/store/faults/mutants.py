"""Stores with one mistake each, of the kind that the machines of destruction are there to find.

A rig that stays green whatever the store does proves nothing. So each machine must turn red with a mistake
that it should see: a sync that is left out, a name that is given too early. The mistake is made in the
process that is tried alone, by statements that run before it and replace a function; what looks at the store
afterwards, and flashes it again, is as it ships. `python -m tests.store.faults.mutants` prints what each
machine found.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgephi.cli.show.table import table
from tests.store.faults import environments, killed, lost_cache, lost_keys
from tests.store.faults.bundles import Releases, build_releases
from tests.store.faults.disks import missing
from tests.store.faults.outcome import Outcome

PROGRAMS = (*lost_cache.PROGRAMS, *killed.PROGRAMS)

# `os.fsync` does nothing for a descriptor whose path holds that.
_NO_SYNC = """
import os, stat
sync = os.fsync
def sync_others(descriptor):
    path, mode = os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_mode
    if not (%s):
        sync(descriptor)
os.fsync = sync_others
"""
_CONTENT_NOT_SYNCED = _NO_SYNC % "'/parts/' in path"
_NAMES_NOT_SYNCED = _NO_SYNC % "stat.S_ISDIR(mode)"
_BUILT_IN_PLACE = """
from edgephi.store import generations, install
build = install.build_generation
def build_in_place(layout, manifest, *rest):
    generations._BEING_BUILT = generations.digest_of(rest[0])
    generations.rename = lambda source, destination: None
    return build(layout, manifest, *rest)
install.build_generation = build_in_place
"""
_ENVIRONMENT_NOT_SYNCED = """
import contextlib
from edgephi.store.environments import trial
trial.syncing_all = lambda folder: contextlib.nullcontext(lambda: None)
"""
_TRIAL_NOT_NOTED = """
from edgephi.store import activation
activation.mark_trial = lambda *_: None
"""
_ROLLED_BACK_UNSIGNED = """
from edgephi.store import rollback
rollback.authenticate = lambda *_, **__: None
"""
_KEYS_FORGOTTEN = """
from edgephi.store import preflight
authenticate = preflight.authenticate
preflight.authenticate = lambda *given, required=False: authenticate(*given)
"""
_KEY_NOT_NOTED = """
from edgephi.store.trust import change
change._remember = lambda *_, **__: None
"""


@dataclass(frozen=True)
class Mutant:
    """A mistake in a few words, and the machine that must find it, with the mistake in what it tries."""

    mistake: str
    machine: Callable[[Path, Releases], Outcome]


MUTANTS = {
    "content": Mutant(
        "files are not synced before they become objects",
        partial(lost_cache.lost_caches, cuts=1, first=_CONTENT_NOT_SYNCED),
    ),
    "names": Mutant(
        "folders are not synced after a rename",
        partial(lost_cache.lost_caches, cuts=1, first=_NAMES_NOT_SYNCED),
    ),
    "generation": Mutant(
        "a generation has its name before it is whole",
        partial(killed.killed_flashes, every=8, first=_BUILT_IN_PLACE),
    ),
    "environment": Mutant(
        "an environment is not synced before it has its name",
        partial(environments.lost_caches, cuts=1, first=_ENVIRONMENT_NOT_SYNCED),
    ),
    "rollback-names": Mutant(
        "a roll-back does not sync folders after a rename",
        partial(lost_cache.lost_caches_of_rollbacks, cuts=1, first=_NAMES_NOT_SYNCED),
    ),
    "rollback-trial": Mutant(
        "a roll-back does not note its trial",
        partial(killed.killed_rollbacks, every=3, first=_TRIAL_NOT_NOTED),
    ),
    "rollback-signature": Mutant(
        "a roll-back looks at no signature",
        partial(
            lost_keys.lost_keys, every=40, first=_ROLLED_BACK_UNSIGNED, only=lost_keys.ROLL_BACK_TO_REMOVED
        ),
    ),
    "lost-keys": Mutant(
        "a flash does not know that the store has had a key",
        partial(lost_keys.lost_keys, every=40, first=_KEYS_FORGOTTEN, only=lost_keys.FLASH_UNSIGNED),
    ),
    "new-key": Mutant(
        "the state is not told of a new key",
        partial(lost_keys.lost_caches_of_new_keys, cuts=1, first=_KEY_NOT_NOTED),
    ),
}


def main() -> None:
    """Run the machines on all mutants; end with 1 when one of them found nothing."""
    if reason := missing(*PROGRAMS):
        sys.exit(f"the machines of destruction: {reason}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgephi-mutants-") as folder:
        scratch = Path(folder)
        releases = build_releases(scratch)
        for name, mutant in MUTANTS.items():
            begin = time.monotonic()
            (scratch / name).mkdir()
            outcome = mutant.machine(scratch / name, releases)
            print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
            for broken in outcome.broken:
                print(f"  {broken}", file=sys.stderr)
            rows.append((mutant.mistake, outcome.fault, str(outcome.cases), str(len(outcome.broken))))
    print(table(rows, ("mistake", "machine", "cases", "found in"), right=(2, 3)))
    sys.exit(any(row[-1] == "0" for row in rows))


if __name__ == "__main__":
    main()
