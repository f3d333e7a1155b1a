"""Reading files for their digests, in little memory and on as many processors as there are files."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

_BUFFER_BYTES = 1 << 20
_THREADS = 2

Count = Callable[[int], None]


def file_sha256(path: Path, progress: Count) -> str:
    """The sha256 of a file; `progress` is told of bytes read since it was last told."""
    sha256 = hashlib.sha256()
    buffer = bytearray(_BUFFER_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            sha256.update(view[:count])
            progress(count)
    return sha256.hexdigest()


def files_sha256(paths: Iterable[Path], progress: Count) -> dict[Path, str]:
    """The sha256 of several files, "" for one that cannot be read to its end."""
    told = threading.Lock()

    def count(size: int) -> None:
        with told:
            progress(size)

    def digest(path: Path) -> str:
        try:
            return file_sha256(path, count)
        except OSError:
            return ""

    ordered = list(paths)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(ordered, pool.map(digest, ordered), strict=True))


def forget_cached(path: Path) -> None:
    """Have the next reading of a file come from the disk, which is what shall be looked at."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """`size` bytes of a file from `offset` on; fewer where it ends before."""
    pieces = []
    while size:
        data = os.pread(descriptor, size, offset)
        if not data:
            break
        pieces.append(data)
        offset += len(data)
        size -= len(data)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class RunningHash:
    """The sha256 of a file whose pieces pass by in order, computed beside other work.

    `add` begins to hash a piece and returns what to wait for. A piece out of order ends it: `digest` is then
    None, and the file must be read again.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._sha256 = hashlib.sha256()
        self._offset = 0
        self._broken = False
        self._last: Future[None] | None = None

    def add(self, offset: int, data: bytes | memoryview) -> "Future[None] | None":
        """Take the bytes at `offset`. They must stay as they are until the result is there."""
        if self._broken or offset != self._offset:
            self._broken = True
            return None
        self._offset += len(data)
        self._last = self._pool.submit(self._sha256.update, data)
        return self._last

    def spoil(self) -> None:
        """Forget everything: a piece that was added was not the file's."""
        self._broken = True

    def digest(self, size: int) -> str | None:
        """The sha256 of the whole file of `size` bytes, None when not all of it has passed by in order."""
        if self._last is not None:
            self._last.result()
        return None if self._broken or self._offset != size else self._sha256.hexdigest()
