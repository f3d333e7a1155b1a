"""Frames: how the sending side and the agent on a device talk over one connection.

A frame is its kind in one byte, the length of its payload in four (big endian), and the payload: JSON for
what is small, bytes as they are for manifests and chunks. Both sides refuse a frame that is longer than its
kind may be, before they read it.

    sender                                     agent
                                         <--   READY    what the device is
    REQUEST    what to do, on which store -->
    MANIFEST, SIGNATURE                   -->
                                         <--   STEP, DONE …      while it looks for what is there
                                         <--   WANTED   the chunks that are missing
    CHUNK …                               -->
                                         <--   RECEIVED  for each of them
    FINISH                                -->
                                         <--   STEP, DONE …, RESULT
    PING now and then                   <-->   PING now and then: silence means that the other side is dead
    CANCEL at any time                    -->
                                         <--   ERROR at any time

Who asks for a check hears RESULT right after WANTED.
"""

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

from edgephi.bundle.chunks import LARGEST_CHUNK_BYTES
from edgephi.bundle.envelope import largest_envelope
from edgephi.bundle.manifest import LARGEST_MANIFEST_BYTES
from edgephi.bundle.strict_json import decode_strictly
from edgephi.errors import TransportError
from edgephi.records import read_record

MAGIC = b"edgephi-agent/1\n"
"""Comes before the agent's first frame: a shell's own greeting may come before it."""

HEADER = struct.Struct(">BI")
CHUNK_HEAD = struct.Struct(">32sQ")
"""Before the bytes of a chunk: the sha256 of its file, and its offset there."""

PING_SECONDS = 5.0
SILENCE_SECONDS = 30.0
"""After so long without a word the agent takes the connection for dead, and unlocks the store."""


class Kind(IntEnum):
    """What a frame says."""

    REQUEST = 1
    MANIFEST = 2
    SIGNATURE = 3
    CHUNK = 4
    FINISH = 5
    PING = 6
    CANCEL = 7
    READY = 16
    STEP = 17
    DONE = 18
    WANTED = 19
    RECEIVED = 20
    RESULT = 21
    ERROR = 22


_SMALL = 1 << 20
_LONGEST: dict[Kind, int] = {
    Kind.MANIFEST: LARGEST_MANIFEST_BYTES,
    Kind.SIGNATURE: largest_envelope(LARGEST_MANIFEST_BYTES),  # it holds the manifest once more
    Kind.CHUNK: CHUNK_HEAD.size + LARGEST_CHUNK_BYTES,
    Kind.WANTED: 4 * LARGEST_MANIFEST_BYTES,
    Kind.RESULT: LARGEST_MANIFEST_BYTES,
}


def frame(kind: Kind, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return HEADER.pack(kind, len(payload)) + payload


def frame_of(kind: Kind, value: Any) -> bytes:
    """A whole frame with a value as JSON."""
    return frame(kind, json.dumps(value, separators=(",", ":")).encode())


def read_header(header: bytes) -> tuple[Kind, int]:
    """Kind and length of the frame that begins so. Raises TransportError when there is no such frame."""
    number, length = HEADER.unpack(header)
    try:
        kind = Kind(number)
    except ValueError:
        raise _broken(f"a frame of kind {number}") from None
    if length > _LONGEST.get(kind, _SMALL):
        raise _broken(f"one of {length} bytes for {kind.name}")
    return kind, length


def read_value(payload: bytes | bytearray | memoryview) -> dict[str, Any]:
    """The JSON object in a frame. Raises TransportError when it is none."""
    try:
        value = decode_strictly(bytes(payload), any_text=True)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _broken(f"{bytes(payload[:60])!r}")
    return value


@dataclass(frozen=True)
class Ready:
    """READY: what the device is."""

    edgephi: str
    python: str
    machine: str


@dataclass(frozen=True)
class StepBegun:
    """STEP: another piece of work, of `size` bytes or 0."""

    title: str
    size: int


@dataclass(frozen=True)
class StepDone:
    """DONE: so much more of it."""

    units: int


@dataclass(frozen=True)
class WantedChunks:
    """The chunks of a file that are missing: offset and size of each."""

    sha256: str
    chunks: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Wanted:
    """WANTED: all that is missing, of so many bytes."""

    total_bytes: int
    have_bytes: int
    files: tuple[WantedChunks, ...]


Message = TypeVar("Message")


def read_message(message: type[Message], value: object, *, where: str) -> Message:
    """What a frame's value says. Raises TransportError when it says something else."""
    hint = "use the same edgephi on both sides"
    try:
        return read_record(message, value, where=where, error=TransportError, hint=hint)
    except TransportError as error:
        found = error.message.removeprefix(f"{where}: ")
        raise TransportError(f"{where}: expected what an agent says, found: {found}", hint=hint) from None


def _broken(found: str) -> TransportError:
    return TransportError(
        f"expected a frame of edgephi's, found {found}", hint="use the same edgephi and try again"
    )
