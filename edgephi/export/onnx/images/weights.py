"""Read the weights of an image encoder back, a few rows at a time."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.images.image_encoder import ImageEncoder
from edgephi.checkpoint.roles import ModelTensor
from edgephi.engines.facts.image_graphs import IMAGE_DATA_FILE, TILE_GRAPH_FILE
from edgephi.export.onnx.graph_tensors import GraphTensors
from edgephi.export.tensor_names import tensor_name


class EncoderWeights:
    """The weights of an image encoder as its graph and data file hold them, as the reference wants them."""

    def __init__(self, folder: Path, encoder: ImageEncoder) -> None:
        self.architecture = encoder
        self._stored = GraphTensors(folder / TILE_GRAPH_FILE, folder / IMAGE_DATA_FILE)
        self._shapes = encoder.tensor_shapes()

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a tensor, float32 [stop - start, columns], or that part of a vector."""
        # The graph has some of them in other shapes, of as many numbers.
        shape = self._shapes[tensor]
        return self._stored.rows(tensor_name(tensor), range(start, stop), shape)
