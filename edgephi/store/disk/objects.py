"""Files by their content: read-only, and shared by all generations that have them."""

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from edgephi.bundle.chunks import Chunk
from edgephi.store.disk.durable import sync
from edgephi.store.disk.hashing import read_at
from edgephi.store.disk.layout import Layout

READ_ONLY = 0o444


def plain_size(path: Path) -> int | None:
    """The size of a plain file; None when there is none. A link is never followed."""
    try:
        facts = path.lstat()
    except OSError:
        return None
    return facts.st_size if stat.S_ISREG(facts.st_mode) else None


def damaged_chunks(path: Path, chunks: Iterable[Chunk]) -> tuple[Chunk, ...]:
    """Those chunks of a file whose bytes are not what their digest says, or cannot be read."""
    damaged = []
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for chunk in chunks:
            try:
                data = read_at(descriptor, chunk.offset, chunk.size)
            except OSError:
                data = b""
            if len(data) != chunk.size or chunk.sha256 not in (hashlib.sha256(data).hexdigest(), None):
                damaged.append(chunk)
    finally:
        os.close(descriptor)
    return tuple(damaged)


def sync_parts(layout: Layout, files: Iterable[str]) -> None:
    """Make finished parts read-only, and have the disk hold every byte of them."""
    for sha256 in files:
        part = layout.part(sha256)
        part.chmod(READ_ONLY)
        sync(part)


def adopt_parts(layout: Layout, files: Iterable[str]) -> None:
    """Turn finished, verified and synced parts into objects; a damaged object of that name goes."""
    for sha256 in files:
        layout.part(sha256).replace(layout.object(sha256))


def sync_folders(layout: Layout) -> None:
    """Have the disk hold which objects there are, and that their parts are gone."""
    sync(layout.objects)
    sync(layout.parts)
