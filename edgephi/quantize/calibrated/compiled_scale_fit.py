"""`scale_fit` compiled for this processor: the same numbers in the same order, so the same bits, faster.

As in `compiled_error_feedback`, a row of the matrix goes in each lane of a vector.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgephi.quantize.calibrated.error_feedback import BLOCK_COLUMNS, Feedback, column_blocks
from edgephi.quantize.calibrated.scale_fit import LEAST_DETERMINANT

Floats = NDArray[np.float32]

_TILE_ROWS = 64
_ZERO = np.float32(0)

_compiled = njit(nogil=True, error_model="numpy", boundscheck=False)


def fitted_lines(
    weights: Floats,
    numbers: Floats,
    scales: Floats,
    offsets: Floats,
    feedback: Feedback,
    *,
    move_offsets: bool,
) -> tuple[Floats, Floats]:
    """What `scale_fit.fitted_lines` returns."""
    columns = weights.shape[1]
    size = columns // scales.shape[1]
    scales, offsets = scales.copy(), offsets.copy()
    for block, hessian in zip(column_blocks(columns), feedback.hessians, strict=True):
        _fit_block(weights, numbers, scales, offsets, hessian, block.start, size, move_offsets)
    return scales, offsets


@_compiled
def _fit_block(weights, numbers, scales, offsets, hessian, first, size, move_offsets):  # type: ignore[no-untyped-def]
    left, q = (
        np.empty((BLOCK_COLUMNS, _TILE_ROWS), np.float32),
        np.empty((BLOCK_COLUMNS, _TILE_ROWS), np.float32),
    )
    pull, push = np.empty(_TILE_ROWS, np.float32), np.empty(_TILE_ROWS, np.float32)
    sums = np.empty((4, _TILE_ROWS), np.float32)
    step, shift = np.empty(_TILE_ROWS, np.float32), np.empty(_TILE_ROWS, np.float32)
    columns = len(hessian)
    for start in range(0, len(weights), _TILE_ROWS):
        rows = min(_TILE_ROWS, len(weights) - start)
        left[:, rows:] = _ZERO
        q[:, rows:] = _ZERO
        step[:] = _ZERO
        shift[:] = _ZERO
        for column in range(columns):
            group = (first + column) // size
            for i in range(rows):
                q[column, i] = numbers[start + i, first + column]
                stored = q[column, i] * scales[start + i, group] + offsets[start + i, group]
                left[column, i] = weights[start + i, first + column] - stored
        for own in range(0, columns, size):
            group = (first + own) // size
            sums[:] = _ZERO
            offset_push = _ZERO
            for column in range(own, own + size):
                pull[:] = _ZERO
                push[:] = _ZERO
                for other in range(columns):
                    weight = hessian[column, other]
                    for i in range(_TILE_ROWS):
                        pull[i] += weight * left[other, i]
                for other in range(own, own + size):
                    weight = hessian[column, other]
                    offset_push += weight
                    for i in range(_TILE_ROWS):
                        push[i] += weight * q[other, i]
                for i in range(_TILE_ROWS):
                    sums[0, i] += q[column, i] * pull[i]
                    sums[1, i] += q[column, i] * push[i]
                    sums[2, i] += pull[i]
                    sums[3, i] += push[i]
            for i in range(rows):
                scale_pull, scale_push, offset_pull, both_push = (
                    sums[0, i],
                    sums[1, i],
                    sums[2, i],
                    sums[3, i],
                )
                if move_offsets:
                    product = scale_push * offset_push
                    determinant = product - both_push * both_push
                    known = determinant > LEAST_DETERMINANT * product
                    step[i] = _ZERO
                    shift[i] = _ZERO
                    if known:
                        step[i] = (scale_pull * offset_push - offset_pull * both_push) / determinant
                        shift[i] = (offset_pull * scale_push - scale_pull * both_push) / determinant
                else:
                    step[i] = scale_pull / scale_push if scale_push > _ZERO else _ZERO
                scales[start + i, group] += step[i]
                offsets[start + i, group] += shift[i]
            for column in range(own, own + size):
                for i in range(_TILE_ROWS):
                    left[column, i] -= q[column, i] * step[i] + shift[i]
