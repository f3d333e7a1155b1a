"""Bundles to flash: two releases that share no weights, and others that are honest about what changed."""

import dataclasses
import hashlib
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgephi.bundle.chunks import ChunkHashes, FileEntry, cut
from edgephi.bundle.manifest import read_manifest
from edgephi.bundle.unfinished import write_manifest
from edgephi.declared.recipe import read_recipe
from tests.build.demo import build_demo

BALLAST = "model/ballast.bin"  # no engine opens it


@dataclass(frozen=True)
class Releases:
    """Two releases that share no weights, and what `flash` must be told to take them.

    Those of the demo have `BALLAST` to make the way longer.
    """

    old: Path
    new: Path
    options: tuple[str, ...] = ()


def build_releases(folder: Path, ballast_bytes: int = 6 << 20) -> Releases:
    """Build both into `folder`, verified as a user would, so that each has a probe."""
    bare = [_build(folder / "bare-old", 128, 1), _build(folder / "bare-new", 64, 2)]
    old, new = (
        remade(bundle, folder / name, {BALLAST: random.Random(seed).randbytes(ballast_bytes)})
        for seed, (name, bundle) in enumerate(zip(("old", "new"), bare, strict=True))
    )
    for bundle in bare:
        shutil.rmtree(bundle)
    return Releases(old, new)


def remade(bundle: Path, destination: Path, files: dict[str, bytes], **changes: Any) -> Path:
    """A copy of a bundle with other `files`, and a manifest with `changes` that is right about them."""
    shutil.copytree(bundle, destination)
    manifest = read_manifest(bundle)
    entries = {entry.path: entry for entry in manifest.files}
    for name, data in files.items():
        (destination / name).write_bytes(data)
        entries[name] = _entry(name, data)
    requires = dataclasses.replace(
        manifest.requires, disk_bytes=sum(entry.size for entry in entries.values())
    )
    listed = tuple(entries[name] for name in sorted(entries))
    changed = dataclasses.replace(manifest, **{"files": listed, "requires": requires, **changes})
    write_manifest(destination, changed)
    return destination


def _entry(name: str, data: bytes) -> FileEntry:
    hashes = ChunkHashes(cut(len(data)))
    hashes.update(memoryview(data))
    return FileEntry(name, len(data), hashlib.sha256(data).hexdigest(), hashes.table())


def _build(output: Path, group_size: Literal[64, 128], sequence: int) -> Path:
    recipe = read_recipe("demo")
    quant = dataclasses.replace(recipe.quant, group_size=group_size)
    recipe = dataclasses.replace(recipe, quant=quant)
    return build_demo("cpu", output, recipe=recipe, sequence=sequence).folder
