"""A drive that records what is written to it and when it was told to flush: a file system with one file.

The kernel's side of FUSE is spoken to directly (include/uapi/linux/fuse.h, version 7.31), so that nothing
need be installed. A loop device on that file is the drive; `lost_cache.py` makes of the record what a power
cut leaves.

Run as `python -m tests.store.faults.recording_drive FOLDER BYTES RECORD`, it serves until FOLDER is
unmounted.
"""

import ctypes
import enum
import errno
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = "drive"
_FILE_NODE = 2
_LARGEST_WRITE = 1 << 20
_WRITE_HEAD = 40
_VALID = 1 << 30  # seconds for which the kernel may keep an answer

_IN = struct.Struct("<IIQQIIII")  # length, opcode, unique, node, user, group, process, padding
_OUT = struct.Struct("<IiQ")  # length, error, unique
_ATTRIBUTES = struct.Struct("<6Q10I")
_RECORD = struct.Struct("<QI")  # offset and length of a write; a length of zero is a flush


class Ask(enum.IntEnum):
    """What the kernel can ask of us; it does without everything else."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    RELEASEDIR = 29
    DESTROY = 38
    BATCH_FORGET = 42


@dataclass(frozen=True)
class Write:
    """Bytes that reached the drive; they may still be in its cache."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class Flush:
    """All that was written before is on the medium."""


def read_record(record: Path) -> Iterator[Write | Flush]:
    """All that happened to a drive, in order."""
    with record.open("rb") as file:
        while head := file.read(_RECORD.size):
            offset, length = _RECORD.unpack(head)
            yield Write(offset, file.read(length)) if length else Flush()


def main() -> None:
    """Mount, say so on standard output, and serve."""
    folder, size, record = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"recording", os.fsencode(folder), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")
    with record.open("wb", buffering=0) as written:
        print("mounted", flush=True)
        _serve(device, bytearray(size), written.write)


def _serve(device: int, contents: bytearray, note: Callable[[bytes | memoryview], object]) -> None:
    """Answer the kernel's requests, one after the other, until the file system is unmounted."""
    while True:
        try:
            request = os.read(device, _LARGEST_WRITE + 4096)
        except OSError as cause:
            if cause.errno == errno.ENODEV:
                return
            if cause.errno == errno.ENOENT:  # that request was interrupted
                continue
            raise
        _, ask, unique, node, *_ = _IN.unpack_from(request)
        if ask in (Ask.FORGET, Ask.BATCH_FORGET):  # they want no answer
            continue
        answer = _answer(ask, node, memoryview(request)[_IN.size :], contents, note)
        error, data = (answer, b"") if isinstance(answer, int) else (0, answer)
        os.write(device, _OUT.pack(_OUT.size + len(data), -error, unique) + data)


def _answer(
    ask: int,
    node: int,
    body: memoryview,
    contents: bytearray,
    note: Callable[[bytes | memoryview], object],
) -> bytes | int:
    """The answer to one request, or an error number."""
    match ask:
        case Ask.INIT:
            return struct.pack("<4IHHIIHHI7I", 7, 31, 0, 1 << 5, 0, 0, _LARGEST_WRITE, 1, 0, 0, 0, *[0] * 7)
        case Ask.LOOKUP:
            if bytes(body).rstrip(b"\0") != FILE_NAME.encode():
                return errno.ENOENT
            entry = struct.pack("<4QII", _FILE_NODE, 0, _VALID, _VALID, 0, 0)
            return entry + _attributes(_FILE_NODE, len(contents))
        case Ask.GETATTR | Ask.SETATTR:
            return struct.pack("<QII", _VALID, 0, 0) + _attributes(node, len(contents))
        case Ask.OPEN | Ask.OPENDIR:
            return struct.pack("<QII", 0, 0, 0)
        case Ask.READ:
            _, offset, length = struct.unpack_from("<QQI", body)
            return bytes(contents[offset : offset + length])
        case Ask.WRITE:
            _, offset, length = struct.unpack_from("<QQI", body)
            data = body[_WRITE_HEAD : _WRITE_HEAD + length]
            contents[offset : offset + length] = data
            note(_RECORD.pack(offset, length))
            note(data)
            return struct.pack("<II", length, 0)
        case Ask.FSYNC:
            note(_RECORD.pack(0, 0))
            return b""
        case Ask.STATFS:
            return struct.pack("<5Q10I", 0, 0, 0, 0, 0, 4096, 255, 4096, 0, *[0] * 6)
        case Ask.FLUSH | Ask.RELEASE | Ask.RELEASEDIR | Ask.DESTROY:
            return b""
    return errno.ENOSYS


def _attributes(node: int, size: int) -> bytes:
    mode, size = (stat.S_IFREG | 0o600, size) if node == _FILE_NODE else (stat.S_IFDIR | 0o700, 0)
    return _ATTRIBUTES.pack(node, size, size >> 9, *[0] * 3, *[0] * 3, mode, 1, 0, 0, 0, 4096, 0)


if __name__ == "__main__":
    main()
