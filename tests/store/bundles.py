"""Bundles made from others, with manifests that are right about what changed."""

import dataclasses
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgephi.bundle.chunks import ChunkHashes, FileEntry, cut
from edgephi.bundle.manifest import MANIFEST_NAME, read_manifest
from edgephi.bundle.unfinished import write_manifest
from edgephi.store.generations import digest_of as digest_of_manifest

BALLAST = "model/ballast.bin"
"""A file that no engine opens."""


def remade(
    bundle: Path,
    destination: Path,
    files: Mapping[str, bytes],
    *,
    starts: Mapping[str, Sequence[int]] | None = None,
    **changes: Any,
) -> Path:
    """A copy of a bundle with other `files`, and `changes` to its manifest.

    `starts` are the places in a file where a chunk begins, as a tensor would have it.
    """
    shutil.copytree(bundle, destination)
    manifest = read_manifest(bundle)
    entries = {entry.path: entry for entry in manifest.files}
    for name, data in files.items():
        (destination / name).write_bytes(data)
        entries[name] = entry_of(name, data, (starts or {}).get(name, ()))
    listed = tuple(entries[name] for name in sorted(entries))
    write_manifest(destination, dataclasses.replace(manifest, **{"files": listed, **changes}))
    return destination


def entry_of(name: str, data: bytes, starts: Sequence[int] = ()) -> FileEntry:
    """What a manifest says of a file."""
    hashes = ChunkHashes(cut(len(data), starts))
    hashes.update(memoryview(data))
    return FileEntry(name, len(data), hashlib.sha256(data).hexdigest(), hashes.table())


def digest_of(bundle: Path) -> str:
    """The name that the generation of a bundle has."""
    return digest_of_manifest((bundle / MANIFEST_NAME).read_bytes())


def flip_bit(path: Path, place: int) -> None:
    """Change one bit of a file where it lies."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 4]))
