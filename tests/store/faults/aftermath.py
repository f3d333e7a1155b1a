"""What must hold after any fault: one generation whole and active; the next commands put everything right."""

from tests.store.faults.box import Box, BrokenStoreError, Phase, digest_of, must_succeed
from tests.store.faults.bundles import Releases
from tests.store.faults.outcome import Verdict


def aftermath(
    box: Box,
    releases: Releases,
    case: object,
    *,
    done: str | None = None,
    in_flash: bool = True,
    in_rollback: bool = False,
    finish: bool = True,
) -> Verdict:
    """Look at a store that had the old release, and was flashed with the new one when something happened.

    It must hold the old or the new one whole, `edgephi status` must recover it to one of them (to the new
    one only if that had been committed, where the fault fell into a flash; to the old one, where it fell into
    a roll-back from the new one), and a flash must complete. `done` is the release that a command had made
    active when it ended with 0. `finish` False: a flash is not tried.
    """
    names = {digest_of(releases.old): "old", digest_of(releases.new): "new"}
    goal, there = ("old", releases.old) if in_rollback else ("new", releases.new)
    in_flash = in_flash or in_rollback
    phase: Phase | None = None
    active = ""
    try:
        active = names[box.check()]
        phase = box.phase(there)
        if done is not None and active != done:
            raise BrokenStoreError(f"the {active} release is active, and the {done} one was before")
        must_succeed(box.on("status"))
        active = names[box.check()]
        if done is not None and active != done:
            raise BrokenStoreError(f"recovered to the {active} release, and the {done} one was active before")
        if in_flash and (active == goal) != (phase is Phase.COMMITTED):
            raise BrokenStoreError(f"recovered to the {active} release")
        if not finish:
            return Verdict(active, phase=phase if in_flash else None)
        must_succeed(box.flash(releases.new, *releases.options))
        if names[box.check()] != "new":
            raise BrokenStoreError("the next flash did not make the new release active")
        if left := box.leftovers():
            raise BrokenStoreError(f"left over: {', '.join(left)}")
    except (BrokenStoreError, KeyError, OSError) as broken:
        where = phase.value if phase else "unknown"
        return Verdict(active, broken=f"{case} (phase: {where}): {broken}", phase=phase)
    return Verdict(active, finished=True, phase=phase if in_flash else None)
