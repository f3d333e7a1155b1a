"""What the next start does about a power cut: `current` leads to a committed generation, whole, or nowhere.

Whoever holds the store's lock knows that nobody else is at work. So a trial that is still noted was cut
short, and the link goes back. `active_bundle` answers without the lock, and where nothing can be written.
"""

import contextlib
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from edgephi.errors import BadBundleError, StoreBusyError
from edgephi.store.durable import make_folder, remove, replace_link
from edgephi.store.generations import installed, is_digest, manifests, remove_leftovers
from edgephi.store.layout import GENERATIONS_FOLDER, Layout, is_store, missing_folders
from edgephi.store.lock import Holder, StoreLock
from edgephi.store.state import BadStateError, State, read_state, write_state


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
    settled = dataclasses.replace(state, trial=None)
    point_links(layout, settled)  # first: a state without a trial promises that the links are right
    if was_rebuilt or settled != state or not layout.state.exists():
        write_state(layout, settled)
    remove_leftovers(layout)
    return Recovery(ended, was_rebuilt)


def point_links(layout: Layout, state: State) -> None:
    """Have `current` and `previous` lead to the generations of the state."""
    for link, digest in ((layout.current, state.current), (layout.previous, state.previous)):
        point_link(link, digest)


def point_link(link: Path, digest: str | None) -> None:
    """Have a link lead to a generation, in one step; to none: it goes."""
    if digest is None:
        if link.is_symlink():
            remove(link)
        return
    target = f"{GENERATIONS_FOLDER}/{digest}"
    if linked_digest(link) != digest:
        replace_link(link, target)


def linked_digest(link: Path) -> str | None:
    """The generation that a link leads to, None when there is no such link."""
    try:
        target = os.readlink(link)  # noqa: PTH115 - the text of the link
    except OSError:
        return None
    folder, _, digest = target.rpartition("/")
    return digest if folder == GENERATIONS_FOLDER and is_digest(digest) else None


def store_of(path: Path) -> Path | None:
    """The store that a bundle lies in: `path` is its root, a link in it or a generation. None: in none."""
    if is_store(path):
        return path
    absolute = path.absolute()
    for root in (absolute.parent, absolute.parent.parent):
        if is_store(root) and (absolute.parent == root or absolute.parent.name == GENERATIONS_FOLDER):
            return root
    return None


def active_bundle(path: Path) -> Path:
    """The folder of the bundle that `path` means, after a store that it lies in was put right.

    For a store's root or its link `current` that is the committed generation. Where the store cannot be
    written to, or another process changes it, its state is read and left as it is.
    """
    root = store_of(path)
    if root is None:
        return path
    layout = Layout(root)
    with contextlib.suppress(StoreBusyError, OSError):
        recover(root)
    wanted = layout.current if is_store(path) else path.absolute()
    if wanted != layout.current:
        return wanted.resolve()
    try:
        digest = read_state(layout).current
    except BadStateError:
        digest = linked_digest(layout.current)
    if digest is None:
        raise BadBundleError(
            f"{root}: expected a store with an active bundle, found none in it",
            hint=f"edgephi flash BUNDLE {root}",
        )
    return layout.generation(digest).resolve()


def read_settled_state(layout: Layout) -> State:
    """The state as it will be once the store is put right, for those who only read."""
    return dataclasses.replace(_state(layout)[0], trial=None)


def trial_lives(state: State) -> bool:
    """Whether the process that tries a generation still runs."""
    return state.trial is not None and Holder(state.trial.pid, state.trial.boot_id).lives()


def _state(layout: Layout) -> tuple[State, bool]:
    """The state, and whether it had to be made anew from the links, because what stood there was damaged."""
    try:
        state = read_state(layout)
    except BadStateError:
        there = set(installed(layout))
        digests = (linked_digest(layout.current), linked_digest(layout.previous))
        current, previous = (digest if digest in there else None for digest in digests)
        sequences: dict[str, int] = {}
        security: dict[str, int] = {}
        for _, manifest in manifests(layout):
            sequences[manifest.name] = max(manifest.sequence, sequences.get(manifest.name, 0))
            security[manifest.name] = max(manifest.security_floor, security.get(manifest.name, 0))
        return State(
            current=current, previous=previous, sequence_floor=sequences, security_floor=security
        ), True
    return state, False
