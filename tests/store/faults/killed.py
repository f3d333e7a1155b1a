"""SIGKILL at every call that makes something durable or changes a name, from the first to the last."""

import random
import signal
from pathlib import Path

from tests.store.faults import traced
from tests.store.faults.aftermath import aftermath
from tests.store.faults.box import (
    Box,
    BrokenStoreError,
    digest_of,
    environment,
    must_succeed,
    store_like,
)
from tests.store.faults.bundles import BALLAST, Releases, remade
from tests.store.faults.decay import flip_bit
from tests.store.faults.outcome import Outcome, Verdict, tried

PROGRAMS = ("strace",)
_CALLS = (*traced.DURABLE, *traced.NAMING)


def killed_flashes(scratch: Path, releases: Releases, every: int = 1) -> Outcome:
    """Kill a flash of the new release over the old at each `every`-th of its calls."""
    box = Box(scratch / "flashed")
    must_succeed(box.flash(releases.old))
    return _killed("SIGKILL in `flash`", box, ["flash", str(releases.new)], releases, every)


def killed_rollbacks(scratch: Path, releases: Releases, every: int = 1) -> Outcome:
    """Kill a roll-back from the new release to the old one."""
    box = Box(scratch / "rolled-back")
    must_succeed(box.flash(releases.old))
    must_succeed(box.flash(releases.new))
    return _killed("SIGKILL in `rollback`", box, ["rollback"], releases, every)


def killed_collections(scratch: Path, releases: Releases, every: int = 1) -> Outcome:
    """Kill a `gc` that removes a third release, while the new one is active and the old one is kept."""
    box = Box(scratch / "collected")
    third = remade(releases.old, scratch / "third", {BALLAST: random.Random(23).randbytes(3 << 20)})
    for bundle in (third, releases.old, releases.new):
        must_succeed(box.flash(bundle))
    return _killed("SIGKILL in `gc`", box, ["gc"], releases, every)


def killed_repairs(scratch: Path, releases: Releases, every: int = 1) -> Outcome:
    """Kill a flash that mends a flipped bit of a file that the active release and the one before share."""
    newest = remade(releases.new, scratch / "newest", {}, sequence=3)
    prepared = Box(scratch / "repaired")
    for bundle in (releases.new, newest):
        must_succeed(prepared.flash(bundle))
    flip_bit(prepared.root / "current" / BALLAST, 1_234_567, 3)
    with store_like(prepared, scratch) as box:
        calls = traced.calls(box.flash_command(newest), _CALLS, box.root, environment())

    def kill(call: traced.Call) -> Verdict:
        with store_like(prepared, scratch) as box:
            done = traced.injected(box.flash_command(newest), call, "signal=SIGKILL", environment())
            if done.returncode != -signal.SIGKILL:
                return Verdict(broken=f"{call}: not killed, ended with {done.returncode}: {done.stderr}")
            try:
                must_succeed(box.answer("turn on the kitchen light"))  # no engine reads what is damaged
                must_succeed(box.flash(newest))
                must_succeed(box.on("status", "--scrub"))
                if box.check() != digest_of(newest) or (left := box.leftovers()):
                    raise BrokenStoreError(f"left over: {left}")
            except BrokenStoreError as broken:
                return Verdict(broken=f"{call}: {broken}")
            return Verdict("new", finished=True)

    return tried("SIGKILL in a `flash` that mends", calls[::every], kill)


def _killed(fault: str, prepared: Box, command: list[str], releases: Releases, every: int) -> Outcome:
    scratch = prepared.root.parent
    name, *arguments = command
    with store_like(prepared, scratch) as box:
        calls = traced.calls(box.command(name, *arguments, box.root), _CALLS, box.root, environment())

    def kill(call: traced.Call) -> Verdict:
        with store_like(prepared, scratch) as box:
            killed = box.command(name, *arguments, box.root)
            done = traced.injected(killed, call, "signal=SIGKILL", environment())
            if done.returncode != -signal.SIGKILL:
                return Verdict(broken=f"{call}: not killed, ended with {done.returncode}: {done.stderr}")
            return aftermath(box, releases, call, in_flash=name == "flash")

    return tried(fault, calls[::every], kill)
