"""The chunks of a bundle's files: what a device asks for, so that nothing it has is ever sent again.

A chunk is about 1 MiB and begins where a tensor begins, so that the chunks of unchanged weights stay the same
when a header before them grows or another tensor changes its size. The manifest writes one as "SIZE:SHA256",
in the order of the file; a file without any is one chunk. Standard library only. All sizes are bytes.
"""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from edgephi.errors import BadBundleError

CHUNK_BYTES = 1 << 20
LARGEST_CHUNK_BYTES = 4 << 20

_TEXT = re.compile(r"([1-9][0-9]{0,6}):([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle, `path` relative to the bundle's folder with forward slashes.

    `chunks`, "SIZE:SHA256" each, are the parts that a device asks for; see `chunks_of`.
    """

    path: str
    size: int
    sha256: str
    chunks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of bytes of a file. `sha256` None: the manifest does not say it."""

    offset: int
    size: int
    sha256: str | None


def chunks_of(entry: FileEntry) -> tuple[Chunk, ...]:
    """The chunks of a file in order, without a gap; none for an empty file.

    A file without a table is one chunk with the file's own digest. One too large for that, as older versions
    of edgephi wrote it, is cut all the same, but the digests are None: whoever holds the file must say them.
    """
    if not entry.size:
        return ()
    if not entry.chunks:
        if entry.size <= LARGEST_CHUNK_BYTES:
            return (Chunk(0, entry.size, entry.sha256),)
        return _placed((size, None) for size in cut(entry.size))
    return _placed((int(size), sha256) for size, _, sha256 in (text.partition(":") for text in entry.chunks))


def check_chunks(entry: FileEntry, *, where: str, hint: str) -> None:
    """Raise BadBundleError when the table of a file's chunks is not one of that file."""
    total = 0
    for text in entry.chunks:
        match = _TEXT.fullmatch(text)
        size = int(match[1]) if match else 0
        if not 0 < size <= LARGEST_CHUNK_BYTES:
            raise BadBundleError(
                f"{where}: {entry.path}: expected a chunk as SIZE:SHA256 with a size of 1 to "
                f"{LARGEST_CHUNK_BYTES}, found {text[:80]!r}",
                hint=hint,
            )
        total += size
    if entry.chunks and total != entry.size:
        raise BadBundleError(
            f"{where}: {entry.path}: expected chunks of {entry.size} bytes in all, found {total}", hint=hint
        )


def cut(size: int, starts: Iterable[int] = ()) -> tuple[int, ...]:
    """The sizes of the chunks of a file of `size` bytes whose tensors begin at `starts`.

    A tensor of a whole chunk or more begins a new one. Smaller ones share one until it is half full. At a
    tensor's end, less than half a chunk joins the one before. A header, which is what comes before the first
    tensor, shares with none. So a chunk depends on few tensors before it, and on no header's length.
    """
    if not size:
        return ()
    half = CHUNK_BYTES // 2
    places = sorted({start for start in starts if 0 <= start < size})
    groups = [0]
    for begin, end in itertools.pairwise([*places, size]):
        is_first = begin == places[0]
        if begin > 0 and (is_first or begin - groups[-1] >= half or end - begin >= CHUNK_BYTES):
            groups.append(begin)
    sizes = []
    for begin, end in itertools.pairwise([*groups, size]):
        whole = max(0, (end - begin + half) // CHUNK_BYTES - 1)  # all but the last, which takes the rest
        sizes += [CHUNK_BYTES] * whole
        sizes.append(end - begin - whole * CHUNK_BYTES)
    return tuple(sizes)


class ChunkHashes:
    """Hashes the chunks of a file while its bytes pass by, in order and in pieces of any size."""

    def __init__(self, sizes: Iterable[int]) -> None:
        self._sizes = iter(sizes)
        self._texts: list[str] = []
        self._begin()

    def update(self, data: memoryview) -> None:
        """Take the next bytes of the file."""
        while data:
            part = data[: self._missing]
            self._hash.update(part)
            self._missing -= len(part)
            data = data[len(part) :]
            if not self._missing:
                self._texts.append(f"{self._size}:{self._hash.hexdigest()}")
                self._begin()

    def table(self) -> tuple[str, ...]:
        """The chunks as a manifest has them: none where there is only one. After the last byte."""
        if self._size:
            raise AssertionError(f"expected all bytes of the file, {self._missing} of a chunk are missing")
        return tuple(self._texts) if len(self._texts) > 1 else ()

    def _begin(self) -> None:
        import hashlib  # brings in OpenSSL: not for those who only read a manifest

        self._size = self._missing = next(self._sizes, 0)
        self._hash = hashlib.sha256()


def _placed(chunks: Iterable[tuple[int, str | None]]) -> tuple[Chunk, ...]:
    placed = []
    offset = 0
    for size, sha256 in chunks:
        placed.append(Chunk(offset, size, sha256))
        offset += size
    return tuple(placed)
