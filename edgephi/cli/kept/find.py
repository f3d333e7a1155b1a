"""Finding what is kept: in folders, and in the cache of the hub's client. No link is followed."""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgephi.bundle.manifest import MANIFEST_NAME, read_manifest
from edgephi.checkpoint.hub.cache_folder import cache_folder, downloaded_model
from edgephi.errors import BadBundleError, EdgephiError
from edgephi.store.disk.layout import is_store

Kind = Literal["bundle", "store", "checkpoint", "unfinished", "download"]

_UNFINISHED = re.compile(r"\.(.+)\.(partial|pull|calibrating)", re.DOTALL)
_LEFT_BY = {
    "partial": "a build, a pull or a removal that was cut",
    "pull": "a pull that was cut, and goes on there",
    "calibrating": "a calibration that was cut, and goes on there",
}
_DEPTH = 2


@dataclass(frozen=True)
class Kept:
    """A thing that is kept. `name` is what `edgephi rm` takes for it, `about` says in words what it is."""

    kind: Kind
    name: str
    place: Path
    size_bytes: int
    about: str


def find_kept(folders: Iterable[Path]) -> Iterator[Kept]:
    """What is in some folders, down to those in the folders in them, and then all downloads."""
    seen: set[Path] = set()
    for folder in folders:
        for found in _within(folder, _DEPTH):
            if found.place.absolute() not in seen:
                seen.add(found.place.absolute())
                yield found
    yield from _downloads()


def kept_at(folder: Path) -> Kept | None:
    """What a folder is, or None for one that is nothing of ours."""
    kind = _kind_of(folder)
    if kind is None:
        return None
    return Kept(kind, str(folder), folder, size_of(folder), _about(kind, folder))


def destination_of(unfinished: Path) -> Path:
    """The bundle that what was cut was to become."""
    found = _UNFINISHED.fullmatch(unfinished.name)
    assert found is not None  # noqa: S101 - `kept_at` has said that it is one
    return unfinished.with_name(found[1])


def download_at(folder: Path) -> Kept | None:
    """The download in a folder of the client's cache, or None."""
    model = downloaded_model(folder)
    if model is None or folder.is_symlink() or not folder.is_dir():
        return None
    count = sum(1 for _ in _entries(folder / "snapshots"))
    return Kept("download", model, folder, size_of(folder), f"{count} revision{'' if count == 1 else 's'}")


def size_of(folder: Path) -> int:
    """Bytes of all plain files below a folder, those with several names once."""
    sizes: dict[tuple[int, int], int] = {}
    waiting = [folder]
    while waiting:
        for entry in _entries(waiting.pop()):
            try:
                facts = entry.stat(follow_symlinks=False)
            except OSError:  # it has just gone
                continue
            if stat.S_ISDIR(facts.st_mode):
                waiting.append(Path(entry.path))
            elif stat.S_ISREG(facts.st_mode):
                sizes[facts.st_dev, facts.st_ino] = facts.st_size
    return sum(sizes.values())


def _within(folder: Path, depth: int) -> Iterator[Kept]:
    found = kept_at(folder)
    if found is not None:
        yield found
        return
    if depth == 0:
        return
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        hidden = entry.name.startswith(".") and not _UNFINISHED.fullmatch(entry.name)
        if entry.is_dir(follow_symlinks=False) and not hidden:
            yield from _within(folder / entry.name, depth - 1)


def _downloads() -> Iterator[Kept]:
    cache = cache_folder()
    for entry in sorted(_entries(cache), key=lambda entry: entry.name):
        download = download_at(cache / entry.name)
        if download is not None:
            yield download


def _kind_of(folder: Path) -> Kind | None:
    if folder.is_symlink() or not folder.is_dir():
        return None
    if _UNFINISHED.fullmatch(folder.name):
        return "unfinished"
    if (folder / MANIFEST_NAME).is_file():
        return "bundle"
    if is_store(folder):
        return "store"
    has_weights = any(entry.name.endswith(".safetensors") for entry in _entries(folder))
    return "checkpoint" if has_weights and (folder / "config.json").is_file() else None


def _about(kind: Kind, folder: Path) -> str:
    if kind == "unfinished":
        left_by = folder.name.rpartition(".")[2]
        return f"left by {_LEFT_BY[left_by]}"
    if kind == "bundle":
        try:
            manifest = read_manifest(folder)
        except (BadBundleError, OSError):
            return "its manifest cannot be read"
        return f"{manifest.model.id} for {manifest.target.name}"
    if kind == "store":
        return _about_store(folder)
    return "not written by edgephi"


def _about_store(root: Path) -> str:
    try:
        manifest = read_manifest(root / "current")
    except (EdgephiError, OSError):
        return "no active bundle"
    return f"active: {manifest.name} release {manifest.sequence}"


def _entries(folder: Path) -> Iterator["os.DirEntry[str]"]:
    """What is in a folder; nothing, where that cannot be read."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError:
        return
