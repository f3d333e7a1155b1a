"""Reading the file of an adapter: PEFT's own `adapter_model.safetensors`, and nothing in it but its matrices.

A device has NumPy and no library for safetensors (https://huggingface.co/docs/safetensors). What multiplies
the product of two matrices is in them: there is no number beside.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.bundle.strict_json import decode_strictly

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LARGEST_HEADER_BYTES = 16 << 20
_ITEM_BYTES = {"F16": 2, "F32": 4}
_NAME = re.compile(r"base_model\.model\.(?P<matrix>.+)\.lora_(?P<side>[AB])\.weight")
_RIGHT, _LEFT = "A", "B"


@dataclass(frozen=True)
class SmallMatrices:
    """`left` [rows, rank] and `right` [rank, columns] of a matrix [rows, columns], float16 or float32."""

    left: NDArray[np.floating]
    right: NDArray[np.floating]


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: tuple[int, int]
    start: int  # in the file


def changed_matrices(file: Path) -> frozenset[str]:
    """The names of the matrices that an adapter changes, "model.layers.0.self_attn.qkv_proj" and so on.

    Raises OSError and ValueError as `read_factors` does.
    """
    return frozenset(_matrices(file))


def read_factors(file: Path) -> dict[str, SmallMatrices]:
    """The adapter's two matrices for each matrix that it changes.

    Raises OSError, and ValueError which says in one short line what is there instead of an adapter.
    """
    return {
        matrix: SmallMatrices(_read(file, entries[_LEFT]), _read(file, entries[_RIGHT]))
        for matrix, entries in _matrices(file).items()
    }


def _matrices(file: Path) -> dict[str, dict[str, _Entry]]:
    """Where the two matrices lie, by the matrix that they change."""
    matrices: dict[str, dict[str, _Entry]] = {}
    for name, entry in _entries(file).items():
        found = _NAME.fullmatch(name)
        if found is None:
            raise ValueError(f"a tensor {name[:100]!a}")
        matrices.setdefault(found["matrix"], {})[found["side"]] = entry
    if not matrices:
        raise ValueError("no matrices")
    for matrix, entries in matrices.items():
        if len(entries) != 2:
            raise ValueError(f"one matrix of two for {matrix[:100]!a}")
        rank, of_left = entries[_RIGHT].shape[0], entries[_LEFT].shape[1]
        if rank != of_left:
            raise ValueError(f"matrices of {rank} and {of_left} ranks for {matrix[:100]!a}")
    return matrices


def _entries(file: Path) -> dict[str, _Entry]:
    """What the header says, held against the file's size."""
    whole = file.stat().st_size
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        if not 2 <= size <= min(whole - 8, _LARGEST_HEADER_BYTES):
            raise ValueError(f"a header of {size} bytes in a file of {whole}")
        header = decode_strictly(opened.read(size))
    if not isinstance(header, dict):
        raise ValueError("a header that is no table")
    return {
        name: _entry(name, value, data=8 + size, end=whole)
        for name, value in header.items()
        if name != "__metadata__"
    }


def _entry(name: str, value: Any, *, data: int, end: int) -> _Entry:
    table = value if isinstance(value, dict) else {}
    dtype, shape, offsets = table.get("dtype"), _pair(table.get("shape")), _pair(table.get("data_offsets"))
    if dtype not in _ITEM_BYTES or shape is None or offsets is None:
        raise ValueError(f"no matrix of float16 or float32 at {name[:100]!a}")
    start, stop = offsets
    if stop - start != math.prod(shape) * _ITEM_BYTES[dtype] or stop > end - data:
        raise ValueError(f"bytes {start} to {stop} of {end - data} for {dtype} {shape} at {name[:100]!a}")
    return _Entry(dtype, shape, data + start)


def _pair(value: Any) -> tuple[int, int] | None:
    """Two sizes of 0 or more, where these are such."""
    is_pair = isinstance(value, list) and [type(each) for each in value] == [int, int] and min(value) >= 0
    return (value[0], value[1]) if is_pair else None


def _read(file: Path, entry: _Entry) -> NDArray[np.floating]:
    import numpy as np

    dtype = np.dtype(f"<f{_ITEM_BYTES[entry.dtype]}")
    flat: NDArray[np.floating] = np.fromfile(file, dtype, math.prod(entry.shape), offset=entry.start)
    return flat.reshape(entry.shape)
