"""What a graph and its data file hold of each tensor, by the names that we give them; dequantised by rows."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgephi.quantize.groups import dequantize
from edgephi.quantize.nibbles import unpack_nibbles

_CODES = ".codes"
_MATRICES = {
    "GatherBlockQuantized": ((0, "bits"),),
    "MatMulNBits": ((1, "bits"),),
    "QMoE": ((2, "expert_weight_bits"), (5, "expert_weight_bits")),
}
"""Which inputs of an operator are codes, and the attribute that says how many bits these have."""


class GraphTensors:
    """The tensors of one graph. Several threads may read."""

    def __init__(self, graph_file: Path, data_file: Path) -> None:
        self._data = data_file
        graph = onnx.load(graph_file, load_external_data=False).graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._bits: dict[str, int] = {}
        for node in graph.node:
            for place, attribute in _MATRICES.get(node.op_type, ()):
                if not node.input[place].endswith(_CODES):
                    continue
                (bits,) = (each.i for each in node.attribute if each.name == attribute)
                self._bits[node.input[place].removesuffix(_CODES)] = bits

    def rows(self, name: str, rows: range, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Some rows of a tensor of this shape: float32 [rows, columns], or that part of a vector.

        Those of a tensor of more than two dimensions are numbered through.
        """
        columns = shape[1:][-1:]
        if name not in self._bits:
            return self._read(name, rows, columns).astype(np.float32, copy=False)
        bits = self._bits[name]
        codes = self._read(f"{name}{_CODES}", rows, (columns[0] * bits // 8,))
        scales = self._read(f"{name}.scales", rows, self._last(f"{name}.scales"))
        zero_points: NDArray[np.uint8] | int = 1 << (bits - 1)
        if f"{name}.zero_points" in self._tensors:
            zero_points = self._read(f"{name}.zero_points", rows, self._last(f"{name}.zero_points"))
            if bits == 4:
                zero_points = unpack_nibbles(zero_points)[:, : scales.shape[1]]
        return dequantize(unpack_nibbles(codes) if bits == 4 else codes, scales, zero_points)

    def _last(self, name: str) -> tuple[int]:
        return (self._tensors[name].dims[-1],)

    def _read(self, name: str, rows: range, shape: tuple[int, ...]) -> NDArray[Any]:
        """Rows of a tensor, each of this shape: [rows, ...]."""
        tensor = self._tensors[name]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        where = {entry.key: entry.value for entry in tensor.external_data}
        row_items = math.prod(shape)
        span = rows[-1] + 1 - rows.start if rows else 0
        offset = int(where["offset"]) + rows.start * row_items * dtype.itemsize
        with self._data.open("rb") as file:
            data = np.fromfile(file, dtype=dtype, count=span * row_items, offset=offset)
        return data.reshape(span, *shape)[:: rows.step]
