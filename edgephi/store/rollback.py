"""Going back to the generation that ran before: one change of the state, and no network."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from edgephi.errors import BadInputError
from edgephi.runtime.bundle_files import check_files
from edgephi.store.activation import floors_of
from edgephi.store.device_errors import device_errors
from edgephi.store.floors import check_rollback
from edgephi.store.generations import manifest_of
from edgephi.store.in_use import is_open
from edgephi.store.layout import Layout, check_store
from edgephi.store.lock import StoreLock
from edgephi.store.recover import point_links, recover_locked
from edgephi.store.state import read_state, write_state


@dataclass(frozen=True)
class RolledBack:
    """The generation that is active now, and the digest of the one that was and is now `previous`.

    `still_open`: a process that began with that one goes on with it.
    """

    digest: str
    name: str
    sequence: int
    left: str | None
    still_open: bool = False


def roll_back(root: Path) -> RolledBack:
    """Make the previous generation the active one; doing it again goes forward again.

    Raises UsageError where there is no store, BadInputError without a previous generation, BadBundleError
    when that one is broken or below the security floor, StoreBusyError while another changes the store.
    """
    check_store(root)
    layout = Layout(root)
    with device_errors(root), StoreLock.take(layout, "rollback"):
        recover_locked(layout)
        state = read_state(layout)
        if state.previous is None:
            raise BadInputError(
                f"{root}: expected a previous generation to go back to, found none",
                hint="the first bundle of a store has none; flash another one",
            )
        manifest = manifest_of(layout, state.previous)
        check_rollback(manifest, floors_of(state, manifest.name))
        check_files(layout.generation(state.previous), manifest, quick=True)
        swapped = dataclasses.replace(state, current=state.previous, previous=state.current)
        # What is committed here is carried through at the next start, should the links not follow now.
        write_state(layout, swapped)
        point_links(layout, swapped)
        still_open = state.current is not None and is_open(layout, state.current)
    return RolledBack(state.previous, manifest.name, manifest.sequence, state.current, still_open)
