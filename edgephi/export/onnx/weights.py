"""Read the weights of an ONNX artifact back, a few rows at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor
from edgephi.engines.onnxruntime_genai import DATA_FILE, GRAPH_FILE
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.groups import dequantize
from edgephi.quantize.nibbles import unpack_nibbles


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
            weight = {"MatMulNBits": 1, "GatherBlockQuantized": 0}.get(node.op_type)
            if weight is not None:
                attributes = {attribute.name: attribute.i for attribute in node.attribute}
                self._bits[node.input[weight].removesuffix(".codes")] = attributes["bits"]

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a matrix, float32 [stop - start, columns], or that part of a vector."""
        name = tensor_name(tensor)
        if name not in self._bits:
            return self._read(name, start, stop).astype(np.float32, copy=False)
        bits = self._bits[name]
        count = stop - start
        codes = self._read(f"{name}.codes", start, stop).reshape(count, -1)
        scales = self._read(f"{name}.scales", start, stop)
        zero_points: NDArray[np.uint8] | int = 1 << (bits - 1)
        if f"{name}.zero_points" in self._tensors:
            zero_points = self._read(f"{name}.zero_points", start, stop)
            if bits == 4:
                zero_points = unpack_nibbles(zero_points)[:, : scales.shape[1]]
        return dequantize(unpack_nibbles(codes) if bits == 4 else codes, scales, zero_points)

    def _read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        tensor = self._tensors[name]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        where = {entry.key: entry.value for entry in tensor.external_data}
        shape = tuple(tensor.dims)
        row_items = int(np.prod(shape[1:], dtype=np.int64))
        offset = int(where["offset"]) + start * row_items * dtype.itemsize
        with self._data.open("rb") as file:
            data = np.fromfile(file, dtype=dtype, count=(stop - start) * row_items, offset=offset)
        return data.reshape(stop - start, *shape[1:])
