"""From a path that a user gives to the bundle that it means: also when that path lies in a store."""

import contextlib
from pathlib import Path

from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError, EdgephiError
from edgephi.store.disk.in_use import hold
from edgephi.store.disk.layout import GENERATIONS_FOLDER, Layout, is_store
from edgephi.store.recover import is_settled, read_settled_state, recover

_LONGEST_RACE = 5
_MOST_LINKS = 40  # as many as the kernel follows


def store_of(path: Path) -> Path | None:
    """The store that a bundle lies in: `path` is its root, a link in it or a generation. None: in none."""
    if is_store(path):
        return path
    absolute = path.absolute()
    if is_store(absolute.parent):
        return absolute.parent
    generations = absolute.parent
    if generations.name == GENERATIONS_FOLDER and is_store(generations.parent):
        return generations.parent
    return None


def followed_store(path: Path) -> Path | None:
    """The store whose active bundle `path` means, whichever that is: its root, or its link `current`."""
    path = _followed(path)
    root = store_of(path)
    if root is None or is_store(path) or path.absolute() == Layout(root).current.absolute():
        return root
    return None


def open_bundle(path: Path) -> Path:
    """The folder of the bundle that `path` means, which stays while this process runs.

    In a store, what a power cut left is put right first, where it can be. Its root, and its link `current`,
    mean the committed generation. Raises BadBundleError when there is none. Any other path is left as it is.
    """
    path = _followed(path)
    root = store_of(path)
    if root is None:
        return path
    layout = Layout(root)
    if not is_settled(layout):
        # Another process may be at work, or the disk may be read-only: the state tells all the same.
        with contextlib.suppress(EdgephiError, OSError):
            recover(root)
    bundle = _meant(path, layout)
    for _ in range(_LONGEST_RACE):
        hold(bundle)
        before, bundle = bundle, _meant(path, layout)
        if before.is_dir() and before == bundle:
            break  # else it was replaced and removed in between
    return bundle


def _followed(path: Path) -> Path:
    """Where links from elsewhere lead into a store, if they do: to its root or its own link, not beyond."""
    place = path
    for _ in range(_MOST_LINKS):
        if store_of(place) is not None:
            return place
        if not place.is_symlink():
            break
        place = place.parent / place.readlink()
    return path


def _meant(path: Path, layout: Layout) -> Path:
    if followed_store(path) is None:
        return path.resolve()
    digest = read_settled_state(layout).current
    if digest is None:
        raise BadBundleError(
            f"{layout.root}: expected a store with an active bundle, found an empty one",
            hint=edgephi_command("flash", "BUNDLE", layout.root),
        )
    return layout.generation(digest).resolve()
