"""Read the weights of an OpenVINO artifact back, a few rows at a time."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.engines.openvino_genai import GRAPH_FILE, LANGUAGE_GRAPH_FILE, TEXT_EMBEDDINGS_GRAPH_FILE
from edgephi.export.openvino.intermediate_representation import StoredLayer, read_constant, read_layers
from edgephi.export.openvino.layout import gate_and_up_of
from edgephi.export.openvino.model_file import data_file
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.groups import dequantize
from edgephi.quantize.nibbles import unpack_nibbles


class ArtifactWeights:
    """The weights as the artifact holds them, dequantised a few rows at a time.

    Reads the finished graphs and data files, not our plan of them, so that the reference computes with what
    the engine will read. Has `architecture` and `rows`, as the reference's forward pass wants.
    """

    def __init__(self, folder: Path, architecture: Architecture) -> None:
        self.architecture = architecture
        sees = architecture.image_encoder is not None
        graphs = (LANGUAGE_GRAPH_FILE, TEXT_EMBEDDINGS_GRAPH_FILE) if sees else (GRAPH_FILE,)
        self._stored = read_stored(folder, graphs)

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a matrix or a stack, float32 [stop - start, columns], or of a vector."""
        if tensor.role is not Role.EXPERTS_GATE_UP:
            return self._stored[tensor_name(tensor)].rows(start, stop)
        pieces = gate_and_up_of(self.architecture, tensor).rows
        runs = [(self._stored[piece.tensor], piece.within(start, stop)[0]) for piece in pieces]
        return np.concatenate([stack.rows(rows.start, rows.stop) for stack, rows in runs if rows])


@dataclass(frozen=True)
class GraphTensor:
    """A tensor of a graph: the layer that gives it, and the file with the bytes of that layer's constants."""

    data: Path
    layer: StoredLayer

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Its rows `start` to `stop`, float32 [stop - start, columns]; of a vector [stop - start]."""
        layer = self.layer
        if layer.kind == "Const":
            return self._read(layer, start, stop, layer.shape[-1:] if len(layer.shape) > 1 else ())
        # Convert <- numbers, or
        # Convert <- Reshape <- Multiply <- (Subtract <- (Convert <- codes, Convert <- zero points), scales)
        (source,) = layer.inputs
        if source.kind == "Const":
            return self._read(source, start, stop, source.shape[-1:])
        scaled, _ = source.inputs
        centred, scales = scaled.inputs
        codes, zero_points = (convert.inputs[0] for convert in centred.inputs)
        rows = stop - start
        numbers = self._integers(codes, start, stop).reshape(rows, -1)
        factors = self._read(scales, start, stop, scales.shape[-2:]).reshape(rows, -1)
        if math.prod(zero_points.shape) == 1:
            middle = int(self._integers(zero_points, 0, 1)[0])
            return dequantize(numbers, factors, middle)
        zeros = self._integers(zero_points, start, stop).reshape(rows, -1)
        return dequantize(numbers, factors, zeros)

    def _integers(self, constant: StoredLayer, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows of a constant whose last two dimensions are a row's groups and the numbers of each."""
        stored = read_constant(self.data, constant, start, stop, row=constant.shape[-2:]).reshape(-1)
        whole = stored.astype(np.uint8, copy=False)
        return unpack_nibbles(whole) if constant.data["element_type"] == "u4" else whole

    def _read(self, constant: StoredLayer, start: int, stop: int, row: tuple[int, ...]) -> NDArray[Any]:
        stored: NDArray[Any] = read_constant(self.data, constant, start, stop, row=row)
        return stored.astype(np.float32, copy=False)


def read_stored(folder: Path, graph_files: Iterable[str]) -> dict[str, GraphTensor]:
    """What the layers of some graphs give, by their names: those of tensors are in one graph each."""
    return {
        name: GraphTensor(folder / data_file(graph_file), layer)
        for graph_file in graph_files
        for name, layer in read_layers(folder / graph_file).items()
    }
