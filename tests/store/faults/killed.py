"""SIGKILL at every call that makes something durable or changes a name, from the first to the last."""

import random
import signal
from collections.abc import Callable
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
_Look = Callable[[Box, traced.Call], Verdict]


def killed_flashes(
    scratch: Path,
    releases: Releases,
    every: int = 1,
    first: str = "",
    *,
    fault: str = "SIGKILL in `flash`",
) -> Outcome:
    """Kill a flash of the new release over the old at each `every`-th of its calls.

    That flash begins with the statements `first`.
    """
    prepared = Box(scratch / "flashed")
    must_succeed(prepared.flash(releases.old, *releases.options))

    def look(box: Box, call: traced.Call) -> Verdict:
        return aftermath(box, releases, call)

    command = ["flash", str(releases.new), *releases.options]
    return _killed(fault, prepared, command, look, every, first)


def killed_first_flashes(scratch: Path, releases: Releases, every: int = 1) -> Outcome:
    """Kill a flash into an empty folder, which is no store yet."""
    prepared = Box(scratch / "first")
    prepared.root.mkdir()

    def look(box: Box, call: traced.Call) -> Verdict:
        return _completed(box, releases.new, call)

    return _killed("SIGKILL in the first `flash`", prepared, ["flash", str(releases.new)], look, every)


def killed_rollbacks(scratch: Path, releases: Releases, every: int = 1, first: str = "") -> Outcome:
    """Kill a roll-back from the new release to the old one, which begins with the statements `first`."""
    prepared = Box(scratch / "rolled-back")
    for bundle in (releases.old, releases.new):
        must_succeed(prepared.flash(bundle))

    def look(box: Box, call: traced.Call) -> Verdict:
        return aftermath(box, releases, call, in_rollback=True)

    return _killed("SIGKILL in `rollback`", prepared, ["rollback"], look, every, first)


def killed_collections(scratch: Path, releases: Releases, every: int = 1) -> Outcome:
    """Kill a `gc` that removes a third release, while the new one is active and the old one is kept."""
    prepared = Box(scratch / "collected")
    third = remade(releases.old, scratch / "third", {BALLAST: random.Random(23).randbytes(3 << 20)})
    for bundle in (third, releases.old, releases.new):
        must_succeed(prepared.flash(bundle))

    def look(box: Box, call: traced.Call) -> Verdict:
        return aftermath(box, releases, call, in_flash=False)

    return _killed("SIGKILL in `gc`", prepared, ["gc"], look, every)


def killed_repairs(scratch: Path, releases: Releases, every: int = 1) -> Outcome:
    """Kill a flash that mends a flipped bit of a file that the active release and the one before share."""
    newest = remade(releases.new, scratch / "newest", {}, sequence=3)
    prepared = Box(scratch / "repaired")
    for bundle in (releases.new, newest):
        must_succeed(prepared.flash(bundle))
    flip_bit(prepared.root / "current" / BALLAST, 1_234_567, 3)

    def look(box: Box, call: traced.Call) -> Verdict:
        answer = box.answer("turn on the kitchen light")  # no engine reads the file that is damaged
        if answer.returncode:
            return Verdict(broken=f"{call}: the active release does not answer: {answer.stderr}")
        return _completed(box, newest, call)

    return _killed("SIGKILL in a `flash` that mends", prepared, ["flash", str(newest)], look, every)


def _killed(
    fault: str, prepared: Box, command: list[str], look: _Look, every: int, first: str = ""
) -> Outcome:
    """Run a command on copies of a store, killed at another call in each, and look at what is left."""
    scratch = prepared.root.parent
    name, *arguments = command
    with store_like(prepared, scratch) as box:
        traced_command = Box(box.root, first).command(name, *arguments, box.root)
        calls = traced.calls(traced_command, _CALLS, box.root, environment())

    def kill(call: traced.Call) -> Verdict:
        with store_like(prepared, scratch) as box:
            killed = Box(box.root, first).command(name, *arguments, box.root)
            done = traced.injected(killed, call, "signal=SIGKILL", environment())
            if done.returncode != -signal.SIGKILL:
                return Verdict(broken=f"{call}: not killed, ended with {done.returncode}: {done.stderr}")
            return look(box, call)

    return tried(fault, calls[::every], kill)


def _completed(box: Box, bundle: Path, call: traced.Call) -> Verdict:
    """Whether the same flash again leaves the bundle active, and everything whole."""
    try:
        must_succeed(box.flash(bundle))
        must_succeed(box.on("status", "--scrub"))
        if box.check() != digest_of(bundle):
            raise BrokenStoreError("another bundle is active")
        if left := box.leftovers():
            raise BrokenStoreError(f"left over: {', '.join(left)}")
    except BrokenStoreError as broken:
        return Verdict(broken=f"{call}: {broken}")
    return Verdict("new", finished=True)
