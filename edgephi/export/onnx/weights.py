"""Read the weights of an ONNX artifact back, a few rows at a time."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.checkpoint.weights.source import Source
from edgephi.engines.onnxruntime_genai import DATA_FILE, own_graph
from edgephi.export.onnx.expert_rows import by_turns
from edgephi.export.onnx.graph_tensors import GraphTensors
from edgephi.export.tensor_names import tensor_name


class ArtifactWeights:
    """The weights as the artifact holds them, dequantised a few rows at a time.

    Reads the finished graph and data file, not our plan of them, so that the reference computes with what
    the engine will read. Has `architecture` and `rows`, as the reference's forward pass wants.
    """

    def __init__(self, folder: Path, architecture: Architecture) -> None:
        self.architecture = architecture
        self._stored = GraphTensors(own_graph(folder), folder / DATA_FILE)
        self._shapes = architecture.tensor_shapes()

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a matrix, float32 [stop - start, columns], or that part of a vector."""
        name, shape, rows = tensor_name(tensor), self._shapes[tensor], range(start, stop)
        if tensor.role is not Role.EXPERTS_GATE_UP:
            return self._stored.rows(name, rows, shape)
        places = by_turns((Source(name, rows, rows),), shape)
        return np.concatenate([self._stored.rows(name, place.into, shape) for place in places])
