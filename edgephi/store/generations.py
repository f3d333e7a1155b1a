"""Generations: the bundles of a store, each a folder with the files of its manifest under their real names.

The files are hard links into the objects, so that a generation takes no room of its own, and any tool of its
engine's world can open it. `gens/.tmp` is one that is being built; it gets its name when it is whole.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgephi.bundle.chunks import FileEntry
from edgephi.bundle.envelope import largest_envelope
from edgephi.bundle.manifest import (
    LARGEST_MANIFEST_BYTES,
    MANIFEST_NAME,
    SIGNATURE_NAME,
    Manifest,
    decode_manifest,
)
from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError, EdgephiError
from edgephi.store.disk.durable import (
    is_folder,
    new_name,
    remove_folder,
    rename,
    replace_file,
    sync,
    write_file,
)
from edgephi.store.disk.layout import Layout
from edgephi.store.disk.objects import READ_ONLY, plain_size

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_BEING_BUILT = ".tmp"
_BEING_REMOVED = ".removed-"
_REPLACEMENT = ".replacement"


def digest_of(manifest: bytes) -> str:
    """The digest of the generation with that `bundle.json`."""
    return hashlib.sha256(manifest).hexdigest()


def is_digest(name: str) -> bool:
    """Whether a generation may have that name."""
    return _DIGEST.fullmatch(name) is not None


def installed(layout: Layout) -> tuple[str, ...]:
    """The digests of all generations, sorted; none where there is no store."""
    try:
        return tuple(sorted(path.name for path in layout.generations.iterdir() if is_digest(path.name)))
    except FileNotFoundError:
        return ()


def manifest_of(layout: Layout, digest: str) -> Manifest:
    """The manifest of a generation. Raises BadBundleError when it is not the one that was installed."""
    return decode_manifest(manifest_bytes(layout, digest), where=str(layout.manifest(digest)))


def manifest_bytes(layout: Layout, digest: str) -> bytes:
    """The bytes of a generation's manifest. Raises BadBundleError when they are not those of its digest."""
    path = layout.manifest(digest)
    hint = f"flash the same bundle again: `{edgephi_command('flash', 'BUNDLE', layout.root)}`"
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_MANIFEST_BYTES + 1)
    except OSError as cause:
        raise BadBundleError(f"{path}: expected a manifest, found {cause.strerror}", hint=hint) from None
    if digest_of(data) != digest:
        raise BadBundleError(f"{path}: expected sha256 {digest}, found {digest_of(data)}", hint=hint)
    return data


def copied_digest(layout: Layout, folder: Path) -> str | None:
    """The generation of which a folder in a link's place is a copy; None when it is none of this store's."""
    try:
        with (folder / MANIFEST_NAME).open("rb") as file:
            digest = digest_of(file.read(LARGEST_MANIFEST_BYTES + 1))
    except OSError:
        return None
    return digest if digest in installed(layout) else None


def signature_bytes(layout: Layout, digest: str) -> bytes | None:
    """The envelope that came with a generation, which nobody vouches for yet; None without one."""
    path = layout.signature(digest)
    if plain_size(path) is None:
        return None
    with path.open("rb") as file:
        return file.read(largest_envelope(LARGEST_MANIFEST_BYTES) + 1)


def has_signature(layout: Layout, digest: str, signature: bytes | None) -> bool:
    """Whether a generation that is flashed with this envelope, or without one, keeps the one that it has."""
    return signature is None or signature_bytes(layout, digest) == signature


def manifests(layout: Layout) -> Iterator[tuple[str, Manifest]]:
    """Digest and manifest of every generation whose manifest can be read, one after the other."""
    for digest in installed(layout):
        try:
            yield digest, manifest_of(layout, digest)
        except EdgephiError:
            continue


def build_generation(layout: Layout, manifest: Manifest, data: bytes, signature: bytes | None) -> str:
    """Make the generation with the manifest `data` out of objects that are all there. Returns its digest.

    One that is there already is made whole again. Nothing is changed in place: each file of it has its old
    content or the right one at every moment.
    """
    digest = digest_of(data)
    if layout.generation(digest).is_dir():
        relink(layout, digest, manifest)
        if plain_size(layout.manifest(digest)) is None or layout.manifest(digest).read_bytes() != data:
            replace_file(layout.manifest(digest), data, mode=READ_ONLY, new=_replacement(layout))
        if signature is not None and _read(layout.signature(digest)) != signature:
            replace_file(layout.signature(digest), signature, mode=READ_ONLY, new=_replacement(layout))
        return digest
    building = layout.generations / _BEING_BUILT
    if building.exists():
        shutil.rmtree(building)
    building.mkdir()
    building.chmod(0o755)
    folders = {building}
    for entry in manifest.files:
        path = building / entry.path
        folders |= _make_parents(path, building)
        os.link(layout.object(entry.sha256), path, follow_symlinks=False)
    write_file(building / MANIFEST_NAME, data, mode=READ_ONLY)
    if signature is not None:
        write_file(building / SIGNATURE_NAME, signature, mode=READ_ONLY)
    for folder in sorted(folders, reverse=True):
        sync(folder)
    rename(building, layout.generation(digest))
    return digest


def relink(layout: Layout, digest: str, manifest: Manifest) -> None:
    """Have every file of a generation be its object again, where an object was replaced or a file is gone."""
    for entry in manifest.files:
        relink_file(layout, digest, entry)


def relink_file(layout: Layout, digest: str, entry: FileEntry) -> None:
    """Have one file of a generation be its object again, where there is that object."""
    generation = layout.generation(digest)
    path, known = generation / entry.path, layout.object(entry.sha256)
    if plain_size(known) is None or (path.exists() and path.samefile(known)):
        return
    _make_parents(path, generation)
    new = _replacement(layout)
    new.unlink(missing_ok=True)
    os.link(known, new, follow_symlinks=False)
    rename(new, path)


def relink_all(layout: Layout, sha256s: Iterable[str]) -> None:
    """Have every generation use the objects `sha256s` as they are now: one of them was damaged before."""
    changed = frozenset(sha256s)
    for digest, manifest in manifests(layout):
        if any(entry.sha256 in changed for entry in manifest.files):
            relink(layout, digest, manifest)


def remove_generation(layout: Layout, digest: str) -> None:
    """Remove a generation: in one step first, and then its files."""
    remove_folder(layout.generation(digest), layout.generations / f"{_BEING_REMOVED}{digest}")


def remove_leftovers(layout: Layout) -> None:
    """Remove what a process that died has left of what it built, replaced or removed."""
    for path in list(layout.generations.iterdir()):
        if path.name == _BEING_BUILT or path.name.startswith(_BEING_REMOVED):
            shutil.rmtree(path)
    for path in (_replacement(layout), *map(new_name, (layout.state, layout.current, layout.previous))):
        if is_folder(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()


def _replacement(layout: Layout) -> Path:
    """Where a file of a generation is made that replaces another: a bundle has no file but its own."""
    return layout.generations / _REPLACEMENT


def _make_parents(path: Path, top: Path) -> set[Path]:
    """Make the folders from `top` down to the file `path`. Returns them."""
    folders = [folder for folder in path.parents if folder.is_relative_to(top) and folder != top]
    for folder in reversed(folders):
        if not folder.is_dir():
            folder.mkdir()
            folder.chmod(0o755)
            sync(folder.parent)
    return set(folders)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
