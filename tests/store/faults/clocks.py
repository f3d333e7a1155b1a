"""Clocks that are wrong, and starts of the machine that a store remembers: no order may come from a date.

Boxes without a battery wake up in 1970. libfaketime stands between the process and its clock. Another start
of the machine is one with another boot id, which is what the store writes beside a process number.
"""

import json
import os
from pathlib import Path

from edgephi.store.disk.layout import Layout
from edgephi.store.disk.lock import boot_id
from edgephi.store.state import Trial, change_state
from tests.store.faults import traced
from tests.store.faults.aftermath import aftermath
from tests.store.faults.box import (
    Box,
    BrokenStoreError,
    Phase,
    digest_of,
    environment,
    must_succeed,
    ran,
    store_like,
)
from tests.store.faults.bundles import Releases
from tests.store.faults.disks import run
from tests.store.faults.outcome import Outcome, Verdict, tried

PROGRAMS = ("faketime", "strace")
CLOCKS = ("1970-01-01 00:00:10", "2040-07-01 12:00:00")
_ANOTHER_BOOT = "01234567-89ab-cdef-0123-456789abcdef"


def wrong_clocks(scratch: Path, releases: Releases) -> Outcome:
    """Install, update, roll back and clean up in another year, over a store of today."""

    def one(clock: str) -> Verdict:
        box = Box(scratch / f"clock-{clock[:4]}")
        must_succeed(box.flash(releases.old))

        def then(*command: str) -> None:
            must_succeed(ran(["faketime", clock, *command]))

        try:
            then(*box.flash_command(releases.new))
            _expect(box, releases.new)
            then(*box.command("rollback", box.root))
            _expect(box, releases.old)
            then(*box.command("gc", box.root))
            then(*box.command("status", box.root, "--scrub"))
            _expect(box, releases.old)
        except BrokenStoreError as broken:
            return Verdict(broken=f"{clock}: {broken}")
        return aftermath(box, releases, clock, in_flash=False)

    return tried("clock in 1970 and 2040", CLOCKS, one)


def other_boots(scratch: Path, releases: Releases) -> Outcome:
    """A lock and a trial left over, which name a process that lives: of an earlier start, and of this one."""
    installed = Box(scratch / "boots")
    must_succeed(installed.flash(releases.old))
    on_trial = Box(scratch / "boots-on-trial")
    run("cp", "--archive", installed.root, on_trial.root)
    _die_after_the_swap(on_trial, releases.new)
    pid = os.getpid()

    def one(case: tuple[str, str]) -> Verdict:
        what, boot = case
        with store_like(on_trial if what == "trial" else installed, scratch) as box:
            if what == "trial":
                change_state(Layout(box.root), trial=Trial(digest_of(releases.new), pid, boot))
            holder = {"pid": pid, "boot_id": boot, "purpose": "flash"}
            (box.root / "lock").write_text(json.dumps(holder))
            return aftermath(box, releases, case)

    cases = [(what, boot) for what in ("lock", "trial") for boot in (_ANOTHER_BOOT, boot_id())]
    return tried("lock and trial left over from another boot", cases, one)


def _die_after_the_swap(box: Box, bundle: Path) -> None:
    """Leave a store whose `current` leads to a bundle that is not committed."""
    with store_like(box, box.root.parent) as other:
        command = other.flash_command(bundle)
        calls = traced.calls(command, (*traced.NAMING, *traced.DURABLE), other.root, environment())
    [swap] = [at for at, call in enumerate(calls) if '"ROOT/current")' in call.text]
    traced.injected(box.flash_command(bundle), calls[swap + 1], "signal=SIGKILL", environment())
    if box.phase(bundle) is not Phase.SWAPPED:
        raise RuntimeError("the flash did not die between its swap and its commit")


def _expect(box: Box, bundle: Path) -> None:
    if box.check() != digest_of(bundle):
        raise BrokenStoreError(f"expected {bundle.name} to be active")
