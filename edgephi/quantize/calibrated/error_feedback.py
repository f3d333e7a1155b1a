"""Codes whose errors make up for each other: each column takes up what rounding those before it has done.

GPTQ (arXiv:2210.17323) goes through a matrix's columns one after the other. What rounding one does to the
products, the columns that are not rounded yet take back as far as their inputs run along with its own; how
far, the second moments of the inputs say, the Hessian of the squared error. Only inputs of one block of
columns are known to each other here: a model's widest matrix needs 9 MB for that, where all of its inputs
need 1.3 GB, and gains nothing by it.

Within a block the columns with the largest inputs come first, as long as many are left to make up for them.
Scales are given: see `quantize.calibrated.calibrated_codes`.

No number here is a sum over rows or columns in an order of a library's choice, so `compiled_error_feedback`
gives the same bits faster. What stands here is its oracle.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BLOCK_COLUMNS = 128
"""Columns that make up for each other's errors; a matrix's last block may have fewer."""
SHRINKAGE = 0.25
"""By what share inputs have less to do with each other than on this text, for on another it is not the same.

It takes 5 % off the loss on text of another kind, and costs nothing on text of the same kind.
"""
DAMPING = 0.01
"""What is added to the mean square of every input, as a share of the mean over a block's."""


@dataclass(frozen=True)
class Feedback:
    """How the columns of a matrix make up for each other's errors.

    order: int64 [columns], block after block, each with its columns in the order in which they are rounded
    shares: float32 [columns, BLOCK_COLUMNS], a row for each place in that order: how much of its column's
    error is taken from those at the block's places. Only what lies after its own place is used.
    hessians: float32 [columns of the block] squared, one a block: what the shares follow from, columns in the
    order of the matrix.
    """

    order: NDArray[np.int64]
    shares: Floats
    hessians: tuple[Floats, ...]


def block_moments(inputs: Floats) -> NDArray[np.float64]:
    """The mean products of the inputs of one block, float32 [tokens, columns], with each other."""
    return (inputs.T @ inputs).astype(np.float64) / len(inputs)


def column_blocks(columns: int) -> list[slice]:
    """The blocks of a matrix's columns."""
    return [slice(first, min(first + BLOCK_COLUMNS, columns)) for first in range(0, columns, BLOCK_COLUMNS)]


def feedback_of(moments: Sequence[NDArray[np.float64]]) -> Feedback:
    """What follows from the moments of a matrix's blocks, [columns of the block] squared each."""
    columns = sum(len(each) for each in moments)
    order = np.empty(columns, np.int64)
    shares = np.zeros((columns, BLOCK_COLUMNS), np.float32)
    hessians = []
    first = 0
    for block in moments:
        size = len(block)
        diagonal = block.diagonal()
        places = np.argsort(-diagonal, kind="stable")
        hessian = (1 - SHRINKAGE) * block
        mean = diagonal.mean()
        # Of inputs that never were anything but zero nothing is known, and any order will do.
        hessian[np.diag_indices(size)] = diagonal + (DAMPING * mean if mean > 0 else 1.0)
        # inverse = lower @ lower.T; row k of lower.T is what is left of the inverse once k columns are done.
        lower = np.linalg.cholesky(np.linalg.inv(hessian[places][:, places]))
        order[first : first + size] = first + places
        shares[first : first + size, :size] = (lower / lower.diagonal()).T
        # Only ratios of its numbers count, and in units of the mean float32 holds them, whatever their size.
        hessians.append((hessian / (mean if mean > 0 else 1.0)).astype(np.float32))
        first += size
    return Feedback(order, shares, tuple(hessians))


def feedback_codes(
    weights: Floats, scales: Floats, offsets: Floats, feedback: Feedback, levels: int
) -> NDArray[np.uint8]:
    """Codes from 0 to levels - 1 of weights [rows, columns], where a weight is code * scale + offset.

    scales, offsets: float32 [rows, groups]; where a scale is 0 all its group's codes are.
    """
    columns = weights.shape[1]
    size = columns // scales.shape[1]
    inverses = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    codes = np.empty(weights.shape, np.uint8)
    last = np.float32(levels - 1)
    for block in column_blocks(columns):
        order, shares = feedback.order[block], feedback.shares[block]
        left = np.ascontiguousarray(weights.T[order])  # [places, rows]: what each is still to become
        for place, column in enumerate(order):
            group = column // size
            scale, offset = scales[:, group], offsets[:, group]
            q = np.rint((left[place] - offset) * inverses[:, group])
            np.clip(q, 0, last, out=q)
            codes[:, column] = q
            error = left[place] - (q * scale + offset)  # [rows]
            left[place + 1 :] -= error * shares[place, place + 1 : len(order), None]
    return codes
