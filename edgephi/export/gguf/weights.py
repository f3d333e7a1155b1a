"""Read the weights of a GGUF file back, a few rows at a time.

The `gguf` library's own reader makes a NumPy array of every word of the vocabulary: 3 seconds for Phi-3's, 20
for Phi-4-mini's, and several hundred megabytes. This one steps over them.

Source: `docs/gguf.md` of ggml.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf import (
    GGML_QUANT_SIZES,
    GGUF_DEFAULT_ALIGNMENT,
    GGUF_MAGIC,
    GGMLQuantizationType,
    GGUFValueType,
    Keys,
)
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor
from edgephi.export.gguf.blocks import SCHEMES, unpack
from edgephi.export.gguf.even_experts import FACTORS
from edgephi.export.gguf.parts import parts_of
from edgephi.export.stream.packed_tensor import align

_VERSION = 3
_FORMATS = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.BOOL: "<?",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a file, and how: `shape` has the rows first, `offset` counts from the start."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int


def read_tensors(file: Path) -> dict[str, StoredTensor]:
    """Every tensor of a GGUF file by its name. Raises ValueError when it is none of version 3."""
    with file.open("rb") as data:
        magic, version, tensor_count, key_count = _unpack(data, "<IIQQ")
        if magic != GGUF_MAGIC or version != _VERSION:
            raise ValueError(f"{file}: expected GGUF version {_VERSION}, found {version} after {magic:#x}")
        alignment = GGUF_DEFAULT_ALIGNMENT
        for _ in range(key_count):
            key = _text(data)
            (kind,) = _unpack(data, "<I")
            if key == Keys.General.ALIGNMENT:
                (alignment,) = _unpack(data, _FORMATS[GGUFValueType(kind)])
            else:
                _skip(data, GGUFValueType(kind))
        found = {}
        for _ in range(tensor_count):
            name = _text(data)
            (dimensions,) = _unpack(data, "<I")
            shape = _unpack(data, f"<{dimensions}Q")[::-1]
            kind, offset = _unpack(data, "<IQ")
            found[name] = StoredTensor(GGMLQuantizationType(kind), shape, offset)
        start = align(data.tell(), alignment)
    return {
        name: StoredTensor(tensor.kind, tensor.shape, start + tensor.offset) for name, tensor in found.items()
    }


class ArtifactWeights:
    """The weights of a GGUF file, as the reference's forward pass wants them."""

    def __init__(self, file: Path, architecture: Architecture) -> None:
        self.architecture = architecture
        self._file = file
        self._tensors = read_tensors(file)
        self._shapes = architecture.tensor_shapes()

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a matrix, float32 [stop - start, columns], or that part of a vector."""
        found = []
        for source in parts_of(tensor, self._shapes[tensor], self.architecture).rows:
            rows, _ = source.within(start, stop)
            if rows:
                found.append(self._stored_rows(self._tensors[source.tensor], rows.start, len(rows)))
        weights = found[0] if len(found) == 1 else np.concatenate(found)
        factor = FACTORS.get(tensor.role, 1.0)
        return weights if factor == 1.0 else weights / np.float32(factor)

    def _stored_rows(self, stored: StoredTensor, start: int, count: int) -> NDArray[np.float32]:
        """Rows of a tensor of the file, of a stack's matrices numbered through."""
        columns = stored.shape[-1] if len(stored.shape) > 1 else 1
        if stored.kind == GGMLQuantizationType.F32:
            data = self._read(stored, start * columns * 4, count * columns * 4).view(np.float32)
            return data if len(stored.shape) == 1 else data.reshape(count, columns)
        weights, size = GGML_QUANT_SIZES[stored.kind]
        row_bytes = columns // weights * size
        blocks = self._read(stored, start * row_bytes, count * row_bytes).reshape(-1, size)
        return unpack(blocks, SCHEMES[stored.kind], columns)

    def _read(self, tensor: StoredTensor, offset: int, size: int) -> NDArray[np.uint8]:
        with self._file.open("rb") as data:
            return np.fromfile(data, np.uint8, size, offset=tensor.offset + offset)


def _unpack(data: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack(form, data.read(struct.calcsize(form)))


def _text(data: BinaryIO) -> str:
    (length,) = _unpack(data, "<Q")
    return data.read(length).decode()


def _skip(data: BinaryIO, kind: GGUFValueType) -> None:
    """Step over a value of the header."""
    if kind == GGUFValueType.STRING:
        _text(data)
    elif kind == GGUFValueType.ARRAY:
        item, count = _unpack(data, "<IQ")
        if item == GGUFValueType.STRING:
            for _ in range(count):
                _text(data)
        else:
            data.seek(count * struct.calcsize(_FORMATS[GGUFValueType(item)]), 1)
    else:
        _unpack(data, _FORMATS[kind])
