"""A matrix that makes up for what the quantised matrices before it have changed in its inputs.

Behind a quantised prefix a matrix sees other inputs than in the original network. The weights that give the
original products from these are W + W E[d x'] E[x x']⁻¹, where x are the inputs as they are now and x + d as
they were. A share of that is worth having: all of it would fit the text's few tokens rather than the model.
As in `error_feedback`, inputs of one block of columns are known to each other.

Source: QEP (arXiv:2504.09629).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgephi.quantize.calibrated.error_feedback import block_moments, column_blocks

Floats = NDArray[np.float32]

SHARE = 0.5
_DAMPING = 0.05  # of the mean square of a block's inputs


def block_correction(inputs: Floats, original: Floats) -> Floats:
    """What the weights of one block are to be multiplied by, and that added: float32 [columns, columns].

    inputs, original: float32 [tokens, columns] of the block, behind what is quantised and in the original.
    """
    moments = block_moments(inputs)
    lag = ((original - inputs).T @ inputs).astype(np.float64) / len(inputs)
    mean = moments.diagonal().mean()
    moments[np.diag_indices(len(moments))] += _DAMPING * mean if mean > 0 else 1.0
    correction: Floats = (SHARE * (lag @ np.linalg.inv(moments))).astype(np.float32)
    return correction


def corrected(weights: Floats, corrections: Sequence[Floats]) -> Floats:
    """Weights [rows, columns] that make up for it, with the correction of each of their blocks."""
    found = weights.copy()
    for block, correction in zip(column_blocks(weights.shape[1]), corrections, strict=True):
        found[:, block] += weights[:, block] @ correction
    return found
