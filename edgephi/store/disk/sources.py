"""Where a store already has the bytes of a chunk, under whatever name: those are copied and never sent."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.chunks import chunks_of
from edgephi.store.disk.hashing import read_at
from edgephi.store.disk.layout import Layout
from edgephi.store.disk.objects import plain_size
from edgephi.store.disk.parts import read_journal
from edgephi.store.generations import manifests


@dataclass(frozen=True, slots=True)
class ChunkSource:
    """A run of bytes of a file in the store. It may have been damaged since: hash what is read."""

    path: Path
    offset: int
    size: int


def find_sources(layout: Layout, wanted: Collection[str], *, mend: bool = True) -> dict[str, ChunkSource]:
    """Where the chunks with the sha256 `wanted` are: in any generation, or in an unfinished transfer.

    `mend`: see `edgephi.store.disk.parts.read_journal`.
    """
    found: dict[str, ChunkSource] = {}
    if not wanted:
        return found
    for digest, manifest in manifests(layout):
        for entry in manifest.files:
            path = layout.object(entry.sha256)
            if plain_size(path) is None:
                path = layout.generation(digest) / entry.path
            if plain_size(path) is None:
                continue
            for chunk in chunks_of(entry):
                if chunk.sha256 is not None and chunk.sha256 in wanted:
                    found.setdefault(chunk.sha256, ChunkSource(path, chunk.offset, chunk.size))
    for file, chunks in read_journal(layout, mend=mend).items():
        path = layout.part(file)
        if plain_size(path) is None:
            continue
        for chunk in chunks.values():
            if chunk.sha256 is not None and chunk.sha256 in wanted:
                found.setdefault(chunk.sha256, ChunkSource(path, chunk.offset, chunk.size))
    return found


def read_source(source: ChunkSource) -> bytes:
    """The bytes of a source; fewer where its file has become shorter, none when it cannot be read."""
    try:
        descriptor = os.open(source.path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return read_at(descriptor, source.offset, source.size)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
