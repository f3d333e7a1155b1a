"""From a proven generation to the one that runs: mark the trial, swap the link, commit.

There is no other way: a flash and a roll-back both come through `activate`. The state is the truth and is
replaced whole, so that there is one moment at which the new generation is committed. Before it, whatever dies
leads back to the old one; after it, to the new one.
"""

import contextlib
import dataclasses
import os

from edgephi.bundle.manifest import Manifest
from edgephi.store.disk.layout import Layout
from edgephi.store.disk.lock import boot_id
from edgephi.store.recover import point_link
from edgephi.store.state import State, Trial, change_state, read_state, write_state
from edgephi.store.trust.floors import Floors, raised
from edgephi.store.trust.trusted_keys import has_keys


def floors_of(state: State, name: str) -> Floors:
    """The lowest releases of a bundle name that the store takes."""
    return Floors(state.sequence_floor.get(name, 0), state.security_floor.get(name, 0))


def activate(layout: Layout, digest: str, manifest: Manifest, *, is_signed: bool, is_proven: bool) -> State:
    """Make a generation, whose bytes were checked, the one that runs. Returns the new state.

    `is_signed`: a trusted key vouches for it; `is_proven`: it has answered on this machine. What ends this
    before the commit leads back to the generation that was active.
    """
    try:
        if read_state(layout).current != digest:
            mark_trial(layout, digest)
            swap_current(layout, digest)
        return commit(layout, digest, manifest, is_signed=is_signed, is_proven=is_proven)
    except BaseException:
        with contextlib.suppress(OSError):  # a disk that takes nothing more: the next start does it
            end_trial(layout)
        raise


def mark_trial(layout: Layout, digest: str) -> None:
    """Note that this process is about to make `current` lead to a generation that is not committed."""
    change_state(layout, trial=Trial(digest, os.getpid(), boot_id()))


def swap_current(layout: Layout, digest: str) -> None:
    """Have `current` lead to the generation on trial."""
    point_link(layout.current, digest)


def commit(layout: Layout, digest: str, manifest: Manifest, *, is_signed: bool, is_proven: bool) -> State:
    """Make the generation on trial the store's own, the one before it `previous`. Returns the new state."""
    state = read_state(layout)
    floors = raised(manifest, floors_of(state, manifest.name), is_signed=is_signed)
    previous = state.previous if state.current in (digest, None) else state.current
    unproven = [other for other in state.unproven if other != digest]
    committed = dataclasses.replace(
        state,
        current=digest,
        previous=None if previous == digest else previous,
        trial=None,
        unproven=tuple(unproven if is_proven else [*unproven, digest]),
        sequence_floor={**state.sequence_floor, manifest.name: floors.sequence},
        security_floor={**state.security_floor, manifest.name: floors.security},
        keys_required=state.keys_required or has_keys(layout.trust),  # one may have come meanwhile
    )
    if committed != state:  # the same bundle again costs the disk nothing
        write_state(layout, committed)
    point_link(layout.previous, committed.previous)
    return committed


def end_trial(layout: Layout) -> None:
    """Go back to the committed generation: the one before the trial, unless it ended well a moment ago."""
    point_link(layout.current, read_state(layout).current)
    change_state(layout, trial=None)
