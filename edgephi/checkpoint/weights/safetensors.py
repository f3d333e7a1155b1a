"""Streaming reader of safetensors files: headers that are checked, and bytes that go where you want them.

The format is eight bytes of header length, a JSON header, then the tensors' bytes without gaps
(https://huggingface.co/docs/safetensors). We read it ourselves because memory must not grow with the
model: mapped pages count as resident memory, so bytes are read into buffers that the caller owns and uses
again. Every claim of a header is checked before it is used to address anything.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from edgephi.checkpoint.git_lfs import check_no_pointer
from edgephi.errors import BadCheckpointError

FLOAT_DTYPES = ("BF16", "F16", "F32")
FloatDtype = Literal["BF16", "F16", "F32"]

_LARGEST_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8
_HINT = "the file is damaged or was cut short: download the checkpoint again"
_DTYPE_BITS: dict[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: `size` bytes from byte `start` of `file`, row-major, little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    size: int


@dataclass(frozen=True)
class ShardHeader:
    """One checked file. `raw` are its bytes before the first tensor; `entries` are in file order.

    `raw` followed by the bytes of all `entries` is the whole file of `size` bytes, so that its sha256 can
    be computed in the pass that reads the tensors. `owner` tells files of one name apart: it is the adapter
    whose file it is, and empty for those of the checkpoint itself.
    """

    file: Path
    size: int
    raw: bytes
    entries: tuple[TensorEntry, ...]
    owner: str = ""

    @property
    def name(self) -> str:
        """What provenance calls it: the file's name, after its owner's where it has one."""
        return f"{self.owner}/{self.file.name}" if self.owner else self.file.name


def read_header(file: Path) -> ShardHeader:
    """Read and check the header of a safetensors file. Raises BadCheckpointError.

    Checked: the header's length against the file's, no key twice, every dtype and shape against its byte
    range, and that the ranges cover the rest of the file without a gap or an overlap.
    """
    descriptor = open_shard(file)
    try:
        size = os.fstat(descriptor).st_size
        if size < _LENGTH_BYTES:
            _fail(file, f"expected at least {_LENGTH_BYTES} bytes, found {size}")
        prefix = read_bytes(descriptor, 0, _LENGTH_BYTES, file=file).tobytes()
        length = int.from_bytes(prefix, "little")
        check_no_pointer(prefix, str(file), "a safetensors file")
        if length > _LARGEST_HEADER_BYTES:
            _fail(file, f"expected a header of at most {_LARGEST_HEADER_BYTES} bytes, found {length}")
        if _LENGTH_BYTES + length > size:
            _fail(file, f"expected a header of {length} bytes, found a file of {size}")
        raw = prefix + read_bytes(descriptor, _LENGTH_BYTES, length, file=file).tobytes()
    finally:
        os.close(descriptor)
    entries = sorted(_read_entries(raw[_LENGTH_BYTES:], file=file), key=lambda e: (e.start, e.size, e.name))
    end = len(raw)
    for entry in entries:
        if entry.start != end:
            what = "overlap" if entry.start < end else "gap"
            _fail(
                file,
                f"tensor {entry.name!r}: expected its bytes to start at {end}, found {entry.start} ({what})",
            )
        end += entry.size
    if end != size:
        _fail(file, f"expected {end} bytes by its header, found {size}")
    return ShardHeader(file=file, size=size, raw=raw, entries=tuple(entries))


def open_shard(file: Path) -> int:
    """A file descriptor to read `file` with; the caller closes it. Raises BadCheckpointError."""
    try:
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as cause:
        raise BadCheckpointError(
            f"{file}: expected a readable file, found {cause.strerror}", hint=_HINT
        ) from None


def read_into(descriptor: int, buffer: npt.NDArray[np.uint8], offset: int, *, file: Path) -> None:
    """Fill `buffer` with the bytes of an open file from byte `offset` on.

    `buffer` is contiguous uint8; nothing is allocated. Safe from several threads with one descriptor, since
    no file position is shared. `file` names it in the BadCheckpointError of a file that ends too early.
    """
    view = buffer.data.cast("B")
    done = 0
    while done < len(view):
        try:
            got = os.preadv(descriptor, [view[done:]], offset + done)
        except OSError as cause:
            _fail(file, f"expected to read {len(view)} bytes at {offset}, found {cause.strerror}")
        if got == 0:
            _fail(file, f"expected {len(view)} bytes at {offset}, found {done} before the end of the file")
        done += got


def read_bytes(descriptor: int, offset: int, size: int, *, file: Path) -> npt.NDArray[np.uint8]:
    """`size` bytes of an open file from byte `offset` on, as a new uint8 array; see `read_into`."""
    buffer = np.empty(size, np.uint8)
    read_into(descriptor, buffer, offset, file=file)
    return buffer


def to_float32(
    raw: npt.NDArray[np.uint8], dtype: str, *, out: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """The float32 values of raw little-endian bytes of `dtype` (BF16, F16 or F32), as a flat array.

    Exact for all three. With `out`, a flat contiguous float32 array of the same count, nothing is allocated.
    """
    count = raw.size // (4 if dtype == "F32" else 2)
    values = np.empty(count, np.float32) if out is None else out
    if dtype == "BF16":
        # bfloat16 is the upper half of float32; widening first keeps both steps in SIMD loops
        bits = values.view(np.uint32)
        np.copyto(bits, raw.view(np.uint16))
        np.left_shift(bits, 16, out=bits)
    elif dtype == "F16":
        np.copyto(values, raw.view(np.float16))
    else:
        np.copyto(values, raw.view(np.float32))
    return values


def read_tensor_rows(entry: TensorEntry, rows: range) -> npt.NDArray[np.float32]:
    """Rows of a tensor as a file holds it, float32 [len(rows), columns]; those between are read and dropped.

    The numbers of a vector are its rows, [len(rows)]; the rows of a tensor of more than two dimensions are
    numbered through. Raises BadCheckpointError when the file has changed.
    """
    row_bytes = entry.size // math.prod(entry.shape[: max(1, len(entry.shape) - 1)])
    start, stop = rows[0], rows[-1] + 1
    descriptor = open_shard(entry.file)
    try:
        at = entry.start + start * row_bytes
        raw = read_bytes(descriptor, at, (stop - start) * row_bytes, file=entry.file)
    finally:
        os.close(descriptor)
    columns = entry.shape[-1:] if len(entry.shape) > 1 else ()
    return to_float32(raw, entry.dtype).reshape(stop - start, *columns)[:: rows.step]


def _read_entries(header: bytes, *, file: Path) -> list[TensorEntry]:
    """The tensors of a JSON header, with offsets from the start of the file."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            _fail(file, f"expected every key of the header once, found {twice!r} twice")
        return table

    try:
        table = json.loads(header, object_pairs_hook=once)
    except (ValueError, RecursionError) as cause:
        _fail(file, f"expected a JSON header, found {cause}")
    if not isinstance(table, dict):
        _fail(file, f"expected a table as header, found {type(table).__name__}")
    first = _LENGTH_BYTES + len(header)
    return [
        _read_entry(name, entry, file=file, first=first)
        for name, entry in table.items()
        if name != "__metadata__"
    ]


def _read_entry(name: str, entry: object, *, file: Path, first: int) -> TensorEntry:
    """Check one tensor of a header; `first` is the byte of the file that offset 0 means."""
    if not isinstance(entry, Mapping) or set(entry) != {"dtype", "shape", "data_offsets"}:
        _fail(file, f"tensor {name!r}: expected dtype, shape and data_offsets, found {_shown(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPE_BITS:
        _fail(file, f"tensor {name!r}: expected a dtype of the format, found {_shown(dtype)}")
    if not _are_sizes(shape):
        _fail(file, f"tensor {name!r}: expected a shape, found {_shown(shape)}")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _fail(file, f"tensor {name!r}: expected two rising data_offsets, found {_shown(offsets)}")
    bits = _DTYPE_BITS[dtype]
    for length in shape:
        bits *= length
    size = offsets[1] - offsets[0]
    if bits != 8 * size:
        expected = f"{-(-bits // 8)} bytes for {dtype} {_shown(shape)}"
        _fail(file, f"tensor {name!r}: expected {expected}, found {size}")
    return TensorEntry(name, dtype, tuple(shape), file, first + offsets[0], size)


def _are_sizes(value: object) -> bool:
    """Whether `value` is a list of whole numbers from 0 on, few and small enough to multiply."""
    return (
        isinstance(value, list)
        and len(value) <= 8
        and all(type(item) is int and 0 <= item < 1 << 62 for item in value)
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fail(file: Path, message: str) -> NoReturn:
    raise BadCheckpointError(f"{file}: {message}", hint=_HINT)
