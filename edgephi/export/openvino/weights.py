"""Read the weights of an OpenVINO artifact back, a few rows at a time."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.engines.openvino_genai import DATA_FILE, GRAPH_FILE
from edgephi.export.openvino.intermediate_representation import StoredLayer, read_constant, read_layers
from edgephi.export.openvino.layout import gate_and_up_of
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
        self._layers = read_layers(folder / GRAPH_FILE)

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a matrix or a stack, float32 [stop - start, columns], or of a vector."""
        if tensor.role is not Role.EXPERTS_GATE_UP:
            return self._rows(self._layers[tensor_name(tensor)], start, stop)
        pieces = gate_and_up_of(self.architecture, tensor).rows
        runs = [(self._layers[piece.tensor], piece.within(start, stop)[0]) for piece in pieces]
        return np.concatenate([self._rows(stack, rows.start, rows.stop) for stack, rows in runs if rows])

    def _rows(self, layer: StoredLayer, start: int, stop: int) -> NDArray[np.float32]:
        if layer.kind == "Const":
            return self._read(layer, start, stop, layer.shape[1:]).astype(np.float32, copy=False)
        # Convert <- Reshape <- Multiply <- (Subtract <- (Convert <- codes, Convert <- zero points), scales)
        ((scaled, _),) = (layer.inputs[0].inputs,)
        centred, scales = scaled.inputs
        codes, zero_points = (convert.inputs[0] for convert in centred.inputs)
        rows = stop - start
        numbers = self._integers(codes, start, stop).reshape(rows, -1)
        factors = self._read(scales, start, stop, scales.shape[-2:]).reshape(rows, -1)
        if math.prod(zero_points.shape) == 1:
            middle = int(self._integers(zero_points, 0, 1)[0])
            return dequantize(numbers, factors.astype(np.float32), middle)
        zeros = self._integers(zero_points, start, stop).reshape(rows, -1)
        return dequantize(numbers, factors.astype(np.float32), zeros)

    def _integers(self, constant: StoredLayer, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows of a constant whose last two dimensions are a row's groups and the numbers of each."""
        stored = self._read(constant, start, stop, constant.shape[-2:]).reshape(-1)
        whole = stored.astype(np.uint8, copy=False)
        return unpack_nibbles(whole) if constant.data["element_type"] == "u4" else whole

    def _read(self, constant: StoredLayer, start: int, stop: int, row: tuple[int, ...]) -> NDArray[Any]:
        return read_constant(self._data, constant, start, stop, row=row)
