"""Read the weights of an ONNX artifact back, a few rows at a time."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.checkpoint.weights.source import Source
from edgephi.engines.onnxruntime_genai import DATA_FILE, GRAPH_FILE
from edgephi.export.onnx.expert_rows import by_turns
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.groups import dequantize
from edgephi.quantize.nibbles import unpack_nibbles

_MATRICES = {
    "GatherBlockQuantized": ((0, "bits"),),
    "MatMulNBits": ((1, "bits"),),
    "QMoE": ((2, "expert_weight_bits"), (5, "expert_weight_bits")),
}
"""Which inputs of an operator are codes, and the attribute that says how many bits these have."""


class ArtifactWeights:
    """The weights as the artifact holds them, dequantised a few rows at a time.

    Reads the finished graph and data file, not our plan of them, so that the reference computes with what
    the engine will read. Has `architecture` and `rows`, as the reference's forward pass wants.
    """

    def __init__(self, folder: Path, architecture: Architecture) -> None:
        self.architecture = architecture
        self._data = folder / DATA_FILE
        graph = onnx.load(folder / GRAPH_FILE, load_external_data=False).graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._bits: dict[str, int] = {}
        for node in graph.node:
            for place, attribute in _MATRICES.get(node.op_type, ()):
                (bits,) = (each.i for each in node.attribute if each.name == attribute)
                self._bits[node.input[place].removesuffix(".codes")] = bits

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a matrix, float32 [stop - start, columns], or that part of a vector."""
        rows = range(start, stop)
        if tensor.role is not Role.EXPERTS_GATE_UP:
            return self._rows(tensor, rows)
        shape = tuple(self._tensors[f"{tensor_name(tensor)}.codes"].dims)
        places = by_turns((Source(tensor_name(tensor), rows, rows),), shape)
        return np.concatenate([self._rows(tensor, place.into) for place in places])

    def _rows(self, tensor: ModelTensor, rows: range) -> NDArray[np.float32]:
        """The rows that lie in these places."""
        name = tensor_name(tensor)
        # A stack of matrices has its rows numbered through.
        own = 2 if tensor.role in (Role.EXPERTS_GATE_UP, Role.EXPERTS_DOWN) else 1
        if name not in self._bits:
            return self._read(name, rows, own).astype(np.float32, copy=False)
        bits = self._bits[name]
        codes = self._read(f"{name}.codes", rows, own).reshape(len(rows), -1)
        scales = self._read(f"{name}.scales", rows, own)
        zero_points: NDArray[np.uint8] | int = 1 << (bits - 1)
        if f"{name}.zero_points" in self._tensors:
            zero_points = self._read(f"{name}.zero_points", rows, own)
            if bits == 4:
                zero_points = unpack_nibbles(zero_points)[:, : scales.shape[1]]
        return dequantize(unpack_nibbles(codes) if bits == 4 else codes, scales, zero_points)

    def _read(self, name: str, rows: range, own: int) -> NDArray[Any]:
        """Rows of a tensor whose first `own` dimensions number them, [rows, ...]."""
        tensor = self._tensors[name]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        where = {entry.key: entry.value for entry in tensor.external_data}
        shape = tuple(tensor.dims)[own:]
        row_items = math.prod(shape)
        span = rows[-1] + 1 - rows.start if rows else 0
        offset = int(where["offset"]) + rows.start * row_items * dtype.itemsize
        with self._data.open("rb") as file:
            data = np.fromfile(file, dtype=dtype, count=span * row_items, offset=offset)
        return data.reshape(span, *shape)[:: rows.step]
