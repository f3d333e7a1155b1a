"""Writing a bundle so that it is there whole or not at all, and opening one to check it."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgephi.bundle.chunks import ChunkHashes, FileEntry, cut
from edgephi.bundle.manifest import ARTIFACT_FOLDER, MANIFEST_NAME, Manifest, encode_manifest
from edgephi.commands import shell_command
from edgephi.errors import DoesNotFitError, UsageError, from_os_error
from edgephi.processes.file_lock import holder_of, is_open_as, open_lock, try_lock
from edgephi.processes.uninterrupted import uninterrupted

_BUFFER_BYTES = 1 << 20


def check_destination(destination: Path) -> None:
    """Refuse a destination that exists, or whose parent is not a folder. Raises UsageError."""
    if os.path.lexists(destination):
        raise UsageError(
            f"{destination}: expected a folder that does not exist yet, found one that does",
            hint="give another with -o, or move this one away first",
        )
    if not destination.absolute().parent.is_dir():
        raise UsageError(
            f"{destination}: expected a parent folder, found none",
            hint=shell_command("mkdir", "-p", destination.parent),
        )


def check_disk_space(destination: Path, needs_bytes: int) -> None:
    """Refuse to write `needs_bytes` where the disk has less free. Raises DoesNotFitError."""
    free = shutil.disk_usage(destination.absolute().parent).free
    if free < needs_bytes:
        raise DoesNotFitError(
            f"{destination}: needs {needs_bytes / 1e6:,.1f} MB of disk, {free / 1e6:,.1f} MB are free",
            hint="free some space, or give a folder on another disk with -o",
        )


def partial_of(destination: Path) -> Path:
    """Where a bundle lies while it is not whole, beside its place. The next build there removes it."""
    return destination.absolute().parent / f".{destination.name}.partial"


@contextlib.contextmanager
def unfinished_bundle(destination: Path, *, needs_bytes: int) -> Iterator[Path]:
    """A folder beside `destination` to build in; `seal` turns it into the bundle.

    When the block ends without that, the folder goes. What a killed build has left is removed by the next
    build of the same destination; one that still runs is found out by its lock and refused.

    Raises UsageError when the destination exists or is being built, DoesNotFitError when the disk has not
    `needs_bytes` free or fills up on the way, BadInputError when the folder may not be written to.
    """
    check_destination(destination)
    partial = partial_of(destination)
    with _translated_os_errors(destination), Building(destination):
        check_destination(destination)  # another build may have ended since
        shutil.rmtree(partial, ignore_errors=True)
        check_disk_space(destination, needs_bytes)
        try:
            partial.mkdir()
            (partial / ARTIFACT_FOLDER).mkdir()
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def seal(partial: Path, destination: Path) -> None:
    """Have the disk hold every byte of an unfinished bundle, then give it its name, in one step."""
    for path in [*partial.rglob("*"), partial]:
        _sync(path)
    check_destination(destination)
    partial.rename(destination)
    _sync(destination.absolute().parent)


def write_manifest(bundle: Path, manifest: Manifest) -> None:
    """Write `bundle.json` into an unfinished bundle."""
    (bundle / MANIFEST_NAME).write_bytes(encode_manifest(manifest))


def list_files(bundle: Path, known: Iterable[FileEntry] = ()) -> tuple[FileEntry, ...]:
    """An entry for every file of an unfinished bundle; those that are known are not read again."""
    entries = {entry.path: entry for entry in known}
    for path in bundle.rglob("*"):
        name = path.relative_to(bundle).as_posix()
        if name not in entries and path.is_file() and name != MANIFEST_NAME:
            entries[name] = _read_entry(path, name)
    return tuple(entry for _, entry in sorted(entries.items()))


def _read_entry(path: Path, name: str) -> FileEntry:
    """The entry of a file in which no tensors are known, read once."""
    size = path.stat().st_size
    whole, chunks = hashlib.sha256(), ChunkHashes(cut(size))
    with path.open("rb") as file:
        while data := file.read(_BUFFER_BYTES):
            whole.update(data)
            chunks.update(memoryview(data))
    return FileEntry(name, size, whole.hexdigest(), chunks.table())


def file_sha256(path: Path) -> str:
    """The sha256 of a file, read a buffer at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_BUFFER_BYTES):
            digest.update(data)
    return digest.hexdigest()


class Building:
    """The lock of an unfinished bundle, held for a block; the kernel lets go of it whatever happens to us.

    Entering it raises UsageError while another process holds it.
    """

    def __init__(self, destination: Path) -> None:
        self._file = partial_of(destination).with_suffix(".lock")
        self._destination = destination
        self._descriptor = -1

    @uninterrupted  # else its file could stay
    def __enter__(self) -> None:
        while True:
            descriptor = open_lock(self._file)
            if not try_lock(descriptor):
                holder = holder_of(descriptor) or "another edgephi"
                os.close(descriptor)
                raise UsageError(
                    f"{self._destination}: {holder} is building this bundle right now",
                    hint="wait for it, or give another folder with -o",
                )
            if is_open_as(descriptor, self._file):
                break
            os.close(descriptor)  # its holder removed it in between: it locks out nobody
        self._descriptor = descriptor

    @uninterrupted
    def __exit__(self, *_: object) -> None:
        self._file.unlink(missing_ok=True)
        os.close(self._descriptor)


@contextlib.contextmanager
def _translated_os_errors(destination: Path) -> Iterator[None]:
    """Say in our words that a disk is full, or that a folder may not be written to."""
    try:
        yield
    except OSError as cause:
        raise from_os_error(cause, place=destination) from cause


def _sync(path: Path) -> None:
    """Have the disk hold what a file or folder holds."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
