"""ENOSPC and EIO at every call that writes, syncs, names or reads, from the first to the last.

The error is put in by strace: the call does nothing. What a real disk does is in `bad_disks.py`.
"""

from pathlib import Path

from tests.store.faults import traced
from tests.store.faults.aftermath import aftermath
from tests.store.faults.box import Box, ends_well, environment, must_succeed, store_like
from tests.store.faults.bundles import Releases
from tests.store.faults.outcome import Outcome, Verdict, tried

PROGRAMS = ("strace",)
_CALLS = {
    "ENOSPC": (*traced.WRITING, *traced.NAMING, *traced.OPENING),
    "EIO": (*traced.WRITING, *traced.DURABLE, *traced.NAMING, *traced.OPENING, *traced.READING),
}


def failed_flashes(scratch: Path, releases: Releases, error: str, every: int = 1) -> Outcome:
    """Have each `every`-th call of a flash fail with an error."""
    return _failed("flash", scratch, releases, error, every)


def failed_rollbacks(scratch: Path, releases: Releases, error: str, every: int = 1) -> Outcome:
    """Have each `every`-th call of a roll-back from the new release to the old one fail with an error."""
    return _failed("rollback", scratch, releases, error, every)


def _failed(name: str, scratch: Path, releases: Releases, error: str, every: int) -> Outcome:
    prepared = Box(scratch / f"failed-{name}-{error}")
    must_succeed(prepared.flash(releases.old, *releases.options))
    is_rollback = name == "rollback"
    if is_rollback:
        must_succeed(prepared.flash(releases.new, *releases.options))

    def command(box: Box) -> list[str]:
        if is_rollback:
            return box.command(name, box.root)
        return box.flash_command(releases.new, *releases.options)

    with store_like(prepared, scratch) as box:
        calls = traced.calls(command(box), _CALLS[error], box.root, environment())
    # Of all processes and threads that read, the first one to come to a number would be hit.
    calls = [call for call in calls if call.in_main or call.name in (*traced.WRITING, *traced.DURABLE)]

    def fail(call: traced.Call) -> Verdict:
        with store_like(prepared, scratch) as box:
            done = traced.injected(command(box), call, f"error={error}", environment())
            if not ends_well(done):
                return Verdict(broken=f"{call}: ended with {done.returncode}: {done.stderr[-2000:]}")
            goal = "old" if is_rollback else "new"
            ended = None if done.returncode else goal
            return aftermath(box, releases, call, done=ended, in_rollback=is_rollback)

    return tried(f"{error} in `{name}`", calls[::every], fail)
