"""Files whose transfer has begun, and the journal of the chunks that the disk holds for certain.

A chunk is written to its place in `parts/SHA256.part`. `acknowledge` has the disk hold all chunks since the
last time, and only then writes them into the journal: what the journal names is never sent again. Even so it
is hashed again when a transfer goes on, because disks lie.

A file that comes in order is hashed once, as a whole. Only when that is not the manifest's does it take its
chunks' digests to say which is wrong. So the journal may name a chunk that is, until a transfer goes on.
"""

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from edgephi.bundle.chunks import Chunk
from edgephi.errors import BadBundleError
from edgephi.store.disk.durable import replace_file, sync
from edgephi.store.disk.hashing import RunningHash, read_at
from edgephi.store.disk.layout import Layout
from edgephi.store.disk.objects import damaged_chunks

WRITE_BYTES = 32 << 10
"""What is written in one call. File systems with large folios take memory in runs as long as the write. Runs
of up to eight pages the kernel has at hand; longer ones it may have to make, in up to three times the time.
"""

# What is not yet known to be the bundle's may be anything that we can read: a link in the bundle's folder may
# lead there by now, and the store is everybody's to read.
_OURS_ONLY = 0o600
_LINE = re.compile(r"([0-9a-f]{64}) ([0-9]{1,18}) ([0-9]{1,7}) ([0-9a-f]{64})", re.ASCII)

Journal = dict[str, dict[int, Chunk]]
"""Chunks by the sha256 of their file and their offset."""


@dataclass(frozen=True)
class PartFile:
    """A file that shall arrive: its size, and its chunks by their offsets. `path` names it in messages."""

    path: str
    sha256: str
    size: int
    chunks: Mapping[int, Chunk]


class Written(NamedTuple):
    """A chunk of `size` bytes was written, 0 when it was there already.

    Its data must stay as they are until `hashing`, which goes on beside, is done.
    """

    size: int
    hashing: Future[None]


_DONE: Future[None] = Future()
_DONE.set_result(None)


class Parts:
    """The unfinished files of one transfer. `write` may be called while another thread acknowledges."""

    def __init__(self, layout: Layout, files: Iterable[PartFile]) -> None:
        self._layout = layout
        self._files = {file.sha256: file for file in files}
        self._missing = {sha256: set(file.chunks) for sha256, file in self._files.items()}
        self._hashers = ThreadPoolExecutor(1)
        self._hashes = {sha256: RunningHash(self._hashers) for sha256 in self._files}
        self._open: dict[str, int] = {}
        self._unacknowledged: list[tuple[str, Chunk]] = []
        self._named_files = False
        self._failed: OSError | None = None
        self._mutex = threading.Lock()
        self._journal = read_journal(layout)

    @property
    def journaled_bytes(self) -> int:
        """The bytes that the journal names of the files of this transfer."""
        return sum(chunk.size for sha256 in self._files for chunk in self._journal.get(sha256, {}).values())

    def take_up(self, sha256: str, progress: Callable[[int], None]) -> None:
        """Find the journaled chunks of a file that are really there."""
        file = self._files[sha256]
        journaled = self._journal.get(sha256, {})
        part = self._layout.part(sha256)
        try:
            descriptor = os.open(part, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            if os.fstat(descriptor).st_size > file.size:  # no chunk tells of what comes after the last one
                part.unlink()
                return
            for offset, chunk in file.chunks.items():
                known = journaled.get(offset)
                if known is None or known.size != chunk.size or chunk.sha256 not in (known.sha256, None):
                    continue
                data = read_at(descriptor, offset, chunk.size)
                progress(chunk.size)
                if hashlib.sha256(data).hexdigest() == known.sha256:
                    self._follow(sha256, offset, data)
                    self._missing[sha256].discard(offset)
            if self._missing[sha256]:
                part.chmod(_OURS_ONLY)  # it may have been whole, and read-only already
        finally:
            os.close(descriptor)

    def missing(self, sha256: str) -> tuple[Chunk, ...]:
        """The chunks of a file that have not been written, in order."""
        file = self._files[sha256]
        return tuple(file.chunks[offset] for offset in sorted(self._missing[sha256]))

    def write(self, sha256: str, offset: int, data: bytes | memoryview) -> Written:
        """Write a chunk to its place.

        Raises BadBundleError when it is not what the manifest says, before it is written.
        """
        return self._write_chunk(sha256, offset, data, check=True)

    def write_in_order(self, sha256: str, offset: int, data: bytes | memoryview) -> Written:
        """Write a chunk of a file that comes in order: then nothing is hashed twice.

        Raises BadBundleError when a chunk is not what the manifest says: with the last one of the file; or at
        once, where one was left out before it.
        """
        return self._write_chunk(sha256, offset, data, check=False)

    def acknowledge(self) -> int:
        """Have the disk hold what was written, then journal it. Returns how many bytes that were.

        A disk that failed once is not asked again: the kernel has forgotten what it could not write.
        """
        self._check_disk()
        try:
            return self._acknowledge()
        except OSError as cause:
            self._failed = cause
            raise

    def digest(self, sha256: str) -> str | None:
        """The sha256 of a file that was written in order, None when only reading it will tell."""
        return self._hashes[sha256].digest(self._files[sha256].size)

    def create_empty(self, sha256: str) -> None:
        """Make the file of a bundle that has no chunks, because it has no bytes."""
        self._descriptor(self._files[sha256])

    def forget(self, sha256: str) -> None:
        """Throw a file away: its chunks are right and yet it is not the file of the manifest."""
        self._layout.part(sha256).unlink(missing_ok=True)
        self._journal.pop(sha256, None)
        remaining = read_journal(self._layout)
        remaining.pop(sha256, None)
        write_journal(self._layout, remaining)

    def close(self) -> None:
        """Let go of the files. What was not acknowledged may be lost."""
        self._hashers.shutdown()
        with self._mutex:
            for descriptor in self._open.values():
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            self._open.clear()

    def _write_chunk(self, sha256: str, offset: int, data: bytes | memoryview, *, check: bool) -> Written:
        self._check_disk()
        file = self._files.get(sha256)
        chunk = file.chunks.get(offset) if file else None
        if file is None or chunk is None or len(data) != chunk.size:
            raise BadBundleError(
                f"expected a chunk of the manifest, found {len(data)} bytes at {offset} of {sha256[:80]}",
                hint="send the bundle from its beginning",
            )
        if offset not in self._missing[sha256]:
            return Written(0, _DONE)
        running = self._hashes[sha256].add(offset, data)
        try:
            if check or running is None or chunk.sha256 is None:
                digest = hashlib.sha256(data).hexdigest()
                if chunk.sha256 not in (digest, None):
                    self._hashes[sha256].spoil()
                    raise _not_as_sealed(file, chunk, digest)
            else:
                digest = chunk.sha256
            self._write(self._descriptor(file), offset, data)
        except BaseException:
            if running is not None:
                running.result()
            raise
        with self._mutex:
            self._missing[sha256].discard(offset)
            self._unacknowledged.append((sha256, Chunk(offset, chunk.size, digest)))
        if not self._missing[sha256]:
            self._check_chunks(file)
        return Written(chunk.size, running or _DONE)

    def _check_chunks(self, file: PartFile) -> None:
        """Raise what names the chunk that made a file another one. There may be none: see `forget`."""
        if self.digest(file.sha256) in (file.sha256, None):
            return
        part = self._layout.part(file.sha256)
        for chunk in damaged_chunks(part, file.chunks.values()):
            with part.open("rb") as opened:
                found = hashlib.sha256(read_at(opened.fileno(), chunk.offset, chunk.size)).hexdigest()
            raise _not_as_sealed(file, chunk, found)

    def _acknowledge(self) -> int:
        with self._mutex:
            chunks, self._unacknowledged = self._unacknowledged, []
            touched = dict.fromkeys(sha256 for sha256, _ in chunks)
            descriptors = {sha256: self._open[sha256] for sha256 in touched}
            finished = [sha256 for sha256 in touched if not self._missing[sha256]]
            named, self._named_files = self._named_files, False
        if not chunks:
            return 0
        for descriptor in descriptors.values():
            os.fsync(descriptor)
        if named:
            sync(self._layout.parts)
        self._append(chunks)
        for sha256 in finished:
            with self._mutex:
                os.close(self._open.pop(sha256))
        return sum(chunk.size for _, chunk in chunks)

    def _check_disk(self) -> None:
        if self._failed is not None:
            raise OSError(self._failed.errno, self._failed.strerror, self._failed.filename)

    def _descriptor(self, file: PartFile) -> int:
        with self._mutex:
            found = self._open.get(file.sha256)
            if found is None:
                path = self._layout.part(file.sha256)
                found = os.open(path, os.O_RDWR | os.O_CREAT, _OURS_ONLY)
                self._open[file.sha256] = found
                self._named_files = True
                os.ftruncate(found, file.size)
            return found

    def _write(self, descriptor: int, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view[:WRITE_BYTES], offset)
            view = view[written:]
            offset += written

    def _follow(self, sha256: str, offset: int, data: bytes) -> None:
        running = self._hashes[sha256].add(offset, data)
        if running is not None:
            running.result()

    def _append(self, chunks: Iterable[tuple[str, Chunk]]) -> None:
        is_new = not self._layout.journal.exists()
        descriptor = os.open(self._layout.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, _OURS_ONLY)
        try:
            text = memoryview("".join(_line(sha256, chunk) for sha256, chunk in chunks).encode())
            while text:
                text = text[os.write(descriptor, text) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            sync(self._layout.parts)


def read_journal(layout: Layout, *, mend: bool = True) -> Journal:
    """The chunks in the journal. A line that was cut short, or anything else that is none, says nothing.

    `mend`: write it anew without such lines.
    """
    journal: Journal = {}
    try:
        text = layout.journal.read_text(errors="replace")
    except FileNotFoundError:
        return journal
    is_whole = not text or text.endswith("\n")
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            is_whole = False
            continue
        chunk = Chunk(int(match[2]), int(match[3]), match[4])
        journal.setdefault(match[1], {})[chunk.offset] = chunk
    if mend and not is_whole:  # else the next line would be joined to a piece of another
        write_journal(layout, journal)
    return journal


def write_journal(layout: Layout, journal: Journal) -> None:
    """Replace the journal."""
    lines = [_line(sha256, chunk) for sha256, chunks in journal.items() for chunk in chunks.values()]
    replace_file(layout.journal, "".join(lines).encode(), mode=_OURS_ONLY)


def clear_parts(layout: Layout) -> int:
    """Remove all unfinished files. Returns their bytes on the disk. The journal goes first."""
    freed = 0
    layout.journal.unlink(missing_ok=True)
    sync(layout.parts)
    for path in layout.parts.iterdir():
        freed += path.stat().st_blocks * 512
        path.unlink()
    sync(layout.parts)
    return freed


def _not_as_sealed(file: PartFile, chunk: Chunk, found: str) -> BadBundleError:
    return BadBundleError(
        f"{file.path}: expected a chunk at {chunk.offset} with sha256 {chunk.sha256}, found {found}",
        hint="the file is not the one that was sealed: copy the bundle again, or build it again",
    )


def _line(sha256: str, chunk: Chunk) -> str:
    return f"{sha256} {chunk.offset} {chunk.size} {chunk.sha256}\n"
