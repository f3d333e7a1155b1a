"""Multiplying activations with a matrix of which a block of rows is in memory at a time."""

from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.roles import BIASES, ModelTensor, Role, bias_of
from edgephi.reference.weights import StoredTensors
from edgephi.reference.workers import share

WEIGHT_BLOCK_BYTES = 4 << 20
"""Size of a worker's block of float32 weight rows. 2 and 4 MiB are equally fast, 16 MiB is slower."""

Floats = NDArray[np.float32]


def project(weights: StoredTensors, tensor: ModelTensor, x: Floats, workers: Executor) -> Floats:
    """Multiply with a whole matrix, and add its bias: [tokens, columns] -> x @ matrix.T [tokens, rows]."""
    rows, columns = weights.architecture.tensor_shapes()[tensor]
    y = np.empty((len(x), rows), np.float32)
    bias = bias_rows(weights, tensor)

    def fill(span: tuple[int, int]) -> None:
        start, stop = span
        np.matmul(x, weights.rows(tensor, start, stop).T, out=y[:, start:stop])
        if bias is not None:
            y[:, start:stop] += bias[start:stop]

    share(workers, fill, row_spans(rows, columns))
    return y


def bias_rows(weights: StoredTensors, tensor: ModelTensor) -> Floats | None:
    """The bias of a matrix, [rows], None where the model has none."""
    if tensor.role is not Role.EMBEDDING and tensor.role not in BIASES:
        return None
    bias = bias_of(tensor)
    shape = weights.architecture.tensor_shapes().get(bias)
    return None if shape is None else weights.rows(bias, 0, shape[0])


def row_spans(rows: int, columns: int) -> list[tuple[int, int]]:
    """Cut a matrix of float32 [rows, columns] into blocks of at most WEIGHT_BLOCK_BYTES (or one row)."""
    step = max(1, WEIGHT_BLOCK_BYTES // (4 * columns))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]
