"""The original network beside the one that is quantised: what goes into each of its matrices.

It goes through a layer just before the quantised one does. What goes into the layer's matrices waits on the
disk for that, a file for each of them: held in memory it would be as much as everything else together.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgephi.build.calibrating.progress_on_disk import ProgressOnDisk
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointWeights
from edgephi.checkpoint.roles import ModelTensor
from edgephi.quantize.calibrated.error_feedback import column_blocks
from edgephi.quantize.folding import FoldedWeights
from edgephi.quantize.tensor_plan import TensorPlans
from edgephi.reference.activations import FINAL_NORM_INPUT, in_layer
from edgephi.reference.importance import matrix_inputs

Floats = NDArray[np.float32]


class OriginalStream:
    """Weights for a pass of the reference, as the plans fold them; keeps one layer's inputs."""

    def __init__(self, checkpoint: Checkpoint, plans: TensorPlans, on_disk: ProgressOnDisk) -> None:
        self.architecture: Architecture = checkpoint.architecture
        self.rows = FoldedWeights(CheckpointWeights(checkpoint), plans).rows
        self._on_disk = on_disk
        self._matrices = matrix_inputs(self.architecture)
        self._before = layer_inputs(self.architecture.layers)

    def activation(self, name: str, values: Floats) -> None:
        """Put by what goes into a matrix, and what goes into a layer."""
        if name in self._before:
            self._on_disk.save_original(self._before[name], values)
        elif name in self._matrices:
            inputs = values.reshape(len(values), -1)
            # One block after the other, since that is how they are read.
            with self._on_disk.inputs_of(self._matrices[name]).open("wb") as file:
                for block in column_blocks(inputs.shape[1]):
                    file.write(np.ascontiguousarray(inputs[:, block]).data)

    def inputs(self, tensor: ModelTensor, tokens: int, block: slice) -> Floats:
        """What goes into a block of a matrix's columns, [tokens, columns of the block]."""
        count = tokens * (block.stop - block.start)
        file = self._on_disk.inputs_of(tensor)
        return np.fromfile(file, np.float32, count, offset=4 * tokens * block.start).reshape(tokens, -1)


def layer_inputs(layers: int) -> Mapping[str, int]:
    """Every layer by the name of what goes into it; behind the last one comes the last norm."""
    return {FINAL_NORM_INPUT: layers, **{in_layer(layer, "input"): layer for layer in range(layers)}}
