"""What the next start does about a power cut: `current` leads to a committed generation, whole, or nowhere.

Whoever holds the store's lock knows that nobody else is at work. So a trial that is still noted was cut
short, and the link goes back.
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from edgephi.errors import BadInputError, EdgephiError
from edgephi.store.disk.durable import is_folder, make_folder, remove, replace_link
from edgephi.store.disk.layout import GENERATIONS_FOLDER, Layout, missing_folders
from edgephi.store.disk.lock import StoreLock
from edgephi.store.environments.folders import settle_environments
from edgephi.store.generations import (
    copied_digest,
    installed,
    is_digest,
    manifest_bytes,
    manifests,
    remove_leftovers,
    signature_bytes,
)
from edgephi.store.state import BadStateError, State, read_state, write_state
from edgephi.store.trust.authenticate import authenticate
from edgephi.store.trust.trusted_keys import has_keys


@dataclass(frozen=True)
class Recovery:
    """What was put right: the generation whose trial was cut short; whether the state was written anew."""

    ended_trial: str | None = None
    rebuilt_state: bool = False


def make_store(layout: Layout) -> None:
    """Make what is missing of an empty store."""
    for folder in missing_folders(layout):
        make_folder(folder)


def recover(root: Path) -> Recovery:
    """Put a store right after whatever happened to it. Raises StoreBusyError while another changes it."""
    layout = Layout(root)
    with StoreLock.take(layout, "recover"):
        return recover_locked(layout)


def recover_locked(layout: Layout) -> Recovery:
    """Put a store right, for whoever holds its lock."""
    state, was_rebuilt = _state(layout)
    ended = state.trial.digest if state.trial else None
    # A key may have been put there by hand: from now on the state knows of it.
    keys_required = state.keys_required or has_keys(layout.trust)
    settled = dataclasses.replace(state, trial=None, keys_required=keys_required)
    point_links(layout, settled)  # first: a state without a trial promises that the links are right
    if was_rebuilt or settled != state or not layout.state.exists():
        write_state(layout, settled)
    remove_leftovers(layout)
    settle_environments(layout)
    return Recovery(ended, was_rebuilt)


def point_links(layout: Layout, state: State) -> None:
    """Have `current` and `previous` lead to the generations of the state."""
    for link, digest in ((layout.current, state.current), (layout.previous, state.previous)):
        point_link(link, digest)


def point_link(link: Path, digest: str | None) -> None:
    """Have a link lead to a generation, in one step; to none: it goes.

    Where a copy of the store that followed links has a folder in its place, the link comes back. Raises
    BadInputError for any other folder.
    """
    if digest is None:
        if link.is_symlink():
            remove(link)
        return
    target = f"{GENERATIONS_FOLDER}/{digest}"
    if linked_digest(link) != digest:
        if is_folder(link) and copied_digest(Layout(link.parent), link) is None:
            raise BadInputError(
                f"{link}: expected a link, found a folder that is no copy of a bundle of this store",
                hint="move it away; the link is made anew then",
            )
        replace_link(link, target)


def linked_digest(link: Path) -> str | None:
    """The generation that a link leads to, None when there is no such link."""
    try:
        target = os.readlink(link)  # noqa: PTH115 - the text of the link
    except OSError:
        return None
    folder, _, digest = target.rpartition("/")
    return digest if folder == GENERATIONS_FOLDER and is_digest(digest) else None


def is_settled(layout: Layout) -> bool:
    """Whether there is nothing to put right, as far as whoever opens a bundle is concerned. Reads only."""
    try:
        state = read_state(layout)
    except BadStateError:
        return False
    links = (linked_digest(layout.current), linked_digest(layout.previous))
    is_there = state.current is None or layout.generation(state.current).is_dir()
    return state.trial is None and links == (state.current, state.previous) and is_there


def read_settled_state(layout: Layout) -> State:
    """The state as it will be once the store is put right, for those who only read."""
    return dataclasses.replace(_state(layout)[0], trial=None)


def _state(layout: Layout) -> tuple[State, bool]:
    """The state, and whether it had to be made anew, because what stood there was damaged or lost.

    A generation that is gone is no longer current or previous; without a current one, the previous one is,
    unless keys are asked for and none vouches for it.
    """
    there = installed(layout)
    was_rebuilt = False
    try:
        state = read_state(layout)
        if there and not layout.state.exists():
            raise BadStateError(f"{layout.state}: expected a file, found none", hint="flash a bundle again")
    except BadStateError:
        state, was_rebuilt = _rebuilt(layout), True
    current, previous = (digest if digest in there else None for digest in (state.current, state.previous))
    if current is None and previous is not None and _may_become_active(layout, previous, state):
        current, previous = previous, None
    return dataclasses.replace(state, current=current, previous=previous), was_rebuilt


def _may_become_active(layout: Layout, digest: str, state: State) -> bool:
    """Whether a key vouches for a generation, where one is asked for."""
    if not (state.keys_required or has_keys(layout.trust)):
        return True
    try:
        data, signature = manifest_bytes(layout, digest), signature_bytes(layout, digest)
        authenticate(layout.trust, data, signature, required=True)
    except EdgephiError:
        return False
    return True


def _rebuilt(layout: Layout) -> State:
    """What the links, the keys and the generations tell of a state that is lost.

    Whether keys were required is told by a key; where none is left, by a signature, or by a folder of keys
    that is gone: where nobody knows, the store is closed.
    """
    sequences: dict[str, int] = {}
    security: dict[str, int] = {}
    keys_required = has_keys(layout.trust) or not layout.trust.is_dir()
    for digest, manifest in manifests(layout):
        name = manifest.name
        sequences[name] = max(manifest.sequence, sequences.get(name, 0))
        is_signed = layout.signature(digest).is_file()
        keys_required = keys_required or is_signed
        security[name] = max(manifest.security_floor if is_signed else 0, security.get(name, 0))
    return State(
        current=linked_digest(layout.current) or copied_digest(layout, layout.current),
        previous=linked_digest(layout.previous) or copied_digest(layout, layout.previous),
        sequence_floor=sequences,
        security_floor=security,
        keys_required=keys_required,
    )
