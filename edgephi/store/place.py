"""Where nothing may be put: into a bundle, a store or a checkpoint, which hold their own files only.

A file too many makes a bundle one that no command opens again, and a store within another is removed by that
one's garbage collection.
"""

import os
from pathlib import Path

from edgephi.bundle.manifest import MANIFEST_NAME
from edgephi.commands import shell_command
from edgephi.errors import UsageError
from edgephi.store.disk.layout import OWN_NAMES, is_store

# What may lie in a folder that counts as empty: `mke2fs` puts it into every file system.
_NOBODYS = frozenset({"lost+found"})
_SUGGESTED = "edgephi"
_CHECKPOINT_CONFIG = "config.json"
_CHECKPOINT_WEIGHTS = "*.safetensors"


def check_root(root: Path) -> None:
    """Raise UsageError unless a store is at `root`, or can be made there without mixing with other files."""
    _check_apart(root)
    if not root.exists():
        if not root.absolute().parent.is_dir():
            raise UsageError(
                f"{root}: expected a parent folder, found none",
                hint=shell_command("mkdir", "-p", root.parent),
            )
        return
    if not root.is_dir():
        raise UsageError(f"{root}: expected a folder, found a file", hint="give the folder of a store")
    if is_store(root):
        return
    strangers = sorted({entry.name for entry in root.iterdir()} - OWN_NAMES - _NOBODYS)
    if strangers:
        raise UsageError(
            f"{root}: expected a store or an empty folder, found {strangers[0]!r} in it",
            hint=_own_folder(root, _SUGGESTED),
        )


def check_not_within(path: Path) -> None:
    """Refuse to write `path` when a folder above it is a bundle or a store. Raises UsageError."""
    found = holder(_real(path).parent)
    if found is not None:
        what, folder = found
        raise UsageError(
            f"{path}: expected a place outside of every bundle and store, "
            f"found it within the {what} {folder}",
            hint="give another folder, which is part of neither",
        )


def _check_apart(root: Path) -> None:
    """Refuse a store at `root` when that is, or lies within, what it would break. Raises UsageError.

    A store that is there already may be in use, so it counts for nothing itself.
    """
    real = _real(root)
    found = holder(real, itself_a_store=True)
    if found is None:
        found = next(
            (("checkpoint", folder) for folder in (real, *real.parents) if _is_checkpoint(folder)), None
        )
    if found is None:
        return
    what, folder = found
    where = "it is" if folder == real else "it lies within"
    if what == "store":
        hint = f"give that store itself: {shell_command(folder)}"
    else:
        hint = _own_folder(folder.parent, f"{folder.name}-store")
    raise UsageError(
        f"{root}: expected a folder for a store, found that {where} the {what} {folder}", hint=hint
    )


def _own_folder(above: Path, name: str) -> str:
    """A hint that names a folder for a store in `above` which is not there yet, if there can be one."""
    real = _real(above)
    candidates = [above / f"{name}{number}" for number in ("", *range(2, 10))]
    free = next((each for each in candidates if not os.path.lexists(each)), None)
    if free is None or holder(real) or _is_checkpoint(real) or not os.access(real, os.W_OK):
        return "give a folder of its own, which is empty or not there yet"
    return f"give a folder of its own, such as {shell_command(free)}"


def holder(real: Path, *, itself_a_store: bool = False) -> tuple[str, Path] | None:
    """The bundle or the store that `real` is or lies within; its path has no links.

    `itself_a_store`: a store may be at `real`.
    """
    for folder in (real, *real.parents):
        if (folder / MANIFEST_NAME).is_file():
            return "bundle", folder
        if is_store(folder) and not (itself_a_store and folder == real):
            return "store", folder
    return None


def _is_checkpoint(folder: Path) -> bool:
    return (folder / _CHECKPOINT_CONFIG).is_file() and any(folder.glob(_CHECKPOINT_WEIGHTS))


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
