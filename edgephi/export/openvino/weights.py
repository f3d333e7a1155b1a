"""Read the weights of an OpenVINO artifact back, a few rows at a time."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor
from edgephi.engines.openvino_genai import DATA_FILE, GRAPH_FILE
from edgephi.export.openvino.intermediate_representation import StoredLayer, read_constant, read_layers
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
        """Rows `start` to `stop` of a matrix, float32 [stop - start, columns], or that part of a vector."""
        layer = self._layers[tensor_name(tensor)]
        if layer.kind == "Const":
            return self._read(layer, start, stop).astype(np.float32, copy=False)
        # Convert <- Reshape <- Multiply <- (Subtract <- (Convert <- codes, Convert <- zero points), scales)
        ((scaled, _),) = (layer.inputs[0].inputs,)
        centred, scales = scaled.inputs
        codes, zero_points = (convert.inputs[0] for convert in centred.inputs)
        rows = stop - start
        numbers = self._integers(codes, start, stop).reshape(rows, -1)
        factors = self._read(scales, start, stop).reshape(rows, -1)
        if zero_points.shape[0] == 1:
            middle = int(self._integers(zero_points, 0, 1)[0])
            return dequantize(numbers, factors.astype(np.float32), middle)
        zeros = self._integers(zero_points, start, stop).reshape(rows, -1)
        return dequantize(numbers, factors.astype(np.float32), zeros)

    def _integers(self, constant: StoredLayer, start: int, stop: int) -> NDArray[np.uint8]:
        stored = self._read(constant, start, stop).reshape(-1).astype(np.uint8, copy=False)
        return unpack_nibbles(stored) if constant.data["element_type"] == "u4" else stored

    def _read(self, constant: StoredLayer, start: int, stop: int) -> NDArray[Any]:
        return read_constant(self._data, constant, start, stop)
