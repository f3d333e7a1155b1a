"""Removing what is kept: a bundle, what was cut, or a download. Nothing else, and nothing of a store.

A bundle goes in one step, into the folder that is beside it while it is built: whatever interrupts its
removal, no half of it is left under its name, and what is left goes with the next build or removal.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from edgephi.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAMES, read_manifest
from edgephi.bundle.unfinished import Building, partial_of
from edgephi.checkpoint.hub.cache_folder import download_folder, locks_folder
from edgephi.checkpoint.hub.name import HUB_ID
from edgephi.cli.kept.find import Kept, destination_of, download_at, kept_at
from edgephi.commands import edgephi_command
from edgephi.errors import UsageError
from edgephi.store.disk.in_use import user_of
from edgephi.store.place import holder

_LISTED = "`{}` shows what there is"


def find_removable(name: str) -> Kept:
    """What a name means: a path, or the id of a model that was downloaded. Raises UsageError, BadBundleError.

    Everything about it that forbids its removal is found out here, and again when it is removed.
    """
    path = Path(name)
    is_hub_id = HUB_ID.fullmatch(name) is not None and not name.startswith((".", "~"))
    download = download_at(download_folder(name)) if is_hub_id else None
    if not os.path.lexists(path):
        if download is None:
            raise UsageError(
                f"{name}: expected a bundle or a downloaded model, found neither",
                hint=_LISTED.format(edgephi_command("list")),
            )
        _check_unused(download)
        return download
    if download is not None:
        raise UsageError(
            f"{name}: expected one thing, found a folder here and a downloaded model of that name",
            hint="a path that begins with ./ means the folder",
        )
    found = _removable_at(path)
    _check_unused(found)
    return found


def remove(kept: Kept) -> None:
    """Remove what `find_removable` has found. Raises UsageError when it has changed since, and OSError."""
    if kept.kind == "download":
        with _noted(kept.place):
            _check_unused(kept)
            # What names the files goes first: what is left by a cut is then no whole model to anybody.
            for part in ("refs", "snapshots", ""):
                _remove_tree(kept.place / part if part else kept.place)
            _remove_tree(locks_folder(kept.place))
        return
    unfinished = kept.kind == "unfinished"
    destination = destination_of(kept.place) if unfinished else kept.place
    with Building(destination):
        _check_unused(_removable_at(kept.place))
        gone = kept.place if unfinished else partial_of(destination)
        with _noted(gone):
            if not unfinished:
                _remove_tree(gone)
                kept.place.rename(gone)
            _remove_tree(gone)


def _removable_at(path: Path) -> Kept:
    """The bundle, or what was cut, in a folder. Raises UsageError for everything else, and BadBundleError."""
    if path.is_symlink():
        raise UsageError(
            f"{path}: expected a folder, found a symbolic link to {path.readlink()}",
            hint="give the folder itself; the link is yours",
        )
    real = Path(os.path.realpath(path))  # one that ends in .. has no name of its own
    around = holder(real.parent)
    if around is not None:
        what, folder = around
        raise UsageError(
            f"{path}: expected a bundle of its own, found a part of the {what} {folder}",
            hint=f"`{edgephi_command('gc', folder)}` removes what nothing needs there"
            if what == "store"
            else _LISTED.format(edgephi_command("list")),
        )
    found = kept_at(real)
    if found is None:
        what = "a folder that is none" if path.is_dir() else "a file"
        raise UsageError(
            f"{path}: expected a bundle, found {what}", hint=_LISTED.format(edgephi_command("list"))
        )
    if found.kind == "store":
        raise UsageError(
            f"{path}: expected a bundle, found a store, from which a device may run",
            hint=f"`{edgephi_command('gc', path)}` removes what nothing needs in it",
        )
    if found.kind == "checkpoint":
        raise UsageError(
            f"{path}: expected what edgephi has written, found a checkpoint of your own",
            hint="edgephi removes downloads and bundles only",
        )
    if found.kind == "bundle":
        _check_only_its_own(real)
    return replace(found, name=str(path))


def _check_only_its_own(bundle: Path) -> None:
    """Raise UsageError when a bundle's folder holds anything that is no part of it."""
    files = {entry.path for entry in read_manifest(bundle).files} | {MANIFEST_NAME} | SIGNATURE_NAMES
    for folder, folders, names in os.walk(bundle):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted([*names, *links]):
            path = Path(folder) / name
            if path.relative_to(bundle).as_posix() not in files:
                raise UsageError(
                    f"{path}: expected only the files of the bundle in its folder, found this one too",
                    hint="move it elsewhere first",
                )


def _check_unused(kept: Kept) -> None:
    """Raise UsageError while a process has a file of it open, as far as we can see."""
    user = user_of(kept.place)
    if user is not None:
        raise UsageError(
            f"{kept.name}: expected nobody to use it, found {user}", hint="end that one, then remove it"
        )


def _remove_tree(folder: Path) -> None:
    """Remove a folder, if it is there, and what is below it; a link is not followed, and refused."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


@contextlib.contextmanager
def _noted(folder: Path) -> Iterator[None]:
    """Say what is left when the block is interrupted."""
    try:
        yield
    except BaseException as error:
        if os.path.lexists(folder):
            error.add_note(f"what is left lies in {folder}; the same command goes on")
        raise
