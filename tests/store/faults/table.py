"""Runs all machines of destruction, prints the table of docs/flash.md: `python -m tests.store.faults.table`.

Needs root and some programs. Takes some minutes: every case is tried, where the tests try some.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.store.faults import (
    bad_disks,
    bad_probes,
    clocks,
    damaged_records,
    decay,
    environments,
    failing_calls,
    killed,
    lost_cache,
    lost_keys,
    power_cut,
    together,
)
from tests.store.faults.box import Phase
from tests.store.faults.bundles import Releases, build_releases
from tests.store.faults.disks import missing
from tests.store.faults.outcome import Outcome

MACHINES: dict[str, Callable[[Path, Releases], Outcome]] = {
    "power-cut": power_cut.power_cuts,
    "lost-cache": lost_cache.lost_caches,
    "power-cut-rollback": power_cut.power_cuts_of_rollbacks,
    "lost-cache-rollback": lost_cache.lost_caches_of_rollbacks,
    "environment-power-cut": environments.power_cuts,
    "environment-lost-cache": environments.lost_caches,
    "environment-failing-disk": environments.failing_disks,
    "environment-enospc": partial(environments.failed_flashes, error="ENOSPC"),
    "environment-eio": partial(environments.failed_flashes, error="EIO"),
    "environment-kill": environments.killed_flashes,
    "kill-flash": killed.killed_flashes,
    "kill-first": killed.killed_first_flashes,
    "kill-rollback": killed.killed_rollbacks,
    "kill-gc": killed.killed_collections,
    "kill-repair": killed.killed_repairs,
    "enospc": partial(failing_calls.failed_flashes, error="ENOSPC"),
    "eio": partial(failing_calls.failed_flashes, error="EIO"),
    "enospc-rollback": partial(failing_calls.failed_rollbacks, error="ENOSPC"),
    "eio-rollback": partial(failing_calls.failed_rollbacks, error="EIO"),
    "full-disk": bad_disks.full_disks,
    "failing-disk": bad_disks.failing_disks,
    "read-only": bad_disks.read_only_disks,
    "bit-flip": decay.flipped_bits,
    "cut-file": decay.cut_files,
    "parts": damaged_records.damaged_transfers,
    "state": damaged_records.damaged_states,
    "lost-keys": lost_keys.lost_keys,
    "lost-cache-trust": lost_keys.lost_caches_of_new_keys,
    "kill-trust": lost_keys.killed_changes_of_keys,
    "together": together.two_at_once,
    "together-first": together.first_flashes_at_once,
    "clock": clocks.wrong_clocks,
    "boot": clocks.other_boots,
    "probe": bad_probes.bad_bundles,
}


def main() -> None:
    """Run the machines, print their table as Markdown; end with 1 when one of them broke a store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("machines", nargs="*", choices=[[], *MACHINES], help="some of them [default: all]")
    chosen = parser.parse_args().machines or list(MACHINES)
    if reason := missing("mkfs.btrfs", "mke2fs", "strace", "faketime", "/dev/fuse"):
        sys.exit(f"the machines of destruction: {reason}")
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="edgephi-faults-") as folder:
        scratch = Path(folder)
        releases = build_releases(scratch)
        for name in chosen:
            begin = time.monotonic()
            (scratch / name).mkdir()
            outcome = MACHINES[name](scratch / name, releases)
            outcomes.append(outcome)
            print(f"{name}: {outcome.cases} cases in {time.monotonic() - begin:.0f} s", file=sys.stderr)
            for broken in outcome.broken:
                print(f"  {broken}", file=sys.stderr)
    print("\n".join(table(outcomes)))
    sys.exit(any(outcome.broken for outcome in outcomes))


def table(outcomes: list[Outcome]) -> list[str]:
    """The outcomes as a table in Markdown, and below it where in a flash or roll-back the faults fell."""
    lines = [
        "| fault | cases | old one active, whole | new one active, whole | then completed | broken |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.fault} | {each.cases} | {each.old} | {each.new} | {each.finished} | {len(each.broken)} |"
        for each in outcomes
    ]
    phased = [each for each in outcomes if len(each.phases) > 2]
    rollbacks = [each for each in phased if "rollback" in each.fault]
    flashes = [each for each in phased if each not in rollbacks]
    return lines + _phases("flash", flashes) + _phases("roll-back", rollbacks)


def _phases(name: str, outcomes: list[Outcome]) -> list[str]:
    """In which phases of a flash or roll-back the faults fell, those without any left out."""
    if not outcomes:
        return []
    hit = [phase for phase in Phase if any(each.phases[phase] for each in outcomes)]
    return [
        "",
        f"| phase of the {name} | {' | '.join(each.fault for each in outcomes)} |",
        "|---" * (len(outcomes) + 1) + "|",
        *(f"| {phase.value} | {' | '.join(str(each.phases[phase]) for each in outcomes)} |" for phase in hit),
    ]


if __name__ == "__main__":
    main()
