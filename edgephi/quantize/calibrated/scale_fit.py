"""Scales that fit their codes: those with which the products of a matrix lose least, all codes as they are.

A search finds each scale with every column's own error in mind. Codes that make up for each other's errors
are no longer the nearest ones, and the scale that suited those does not suit these. What does follows from
the same second moments: with the errors e of a block's columns and the directions d in which a group's
weights move when its scale does, the best change of the scale is <d, H e> / <d, H d>. Groups are taken one
after the other, each with the changes before it in mind. A group that stores an offset has it fitted along.

No number here is a sum over rows or columns in an order of a library's choice, so `compiled_scale_fit` gives
the same bits faster. What stands here is its oracle.
"""

import numpy as np
from numpy.typing import NDArray

from edgephi.quantize.calibrated.error_feedback import Feedback, column_blocks

Floats = NDArray[np.float32]

LEAST_DETERMINANT = np.float32(1e-4)
"""Of numbers that hardly differ from each other a scale and an offset cannot both be known."""
_ZERO = np.float32(0)


def fitted_lines(
    weights: Floats,
    numbers: Floats,
    scales: Floats,
    offsets: Floats,
    feedback: Feedback,
    *,
    move_offsets: bool,
) -> tuple[Floats, Floats]:
    """The scales and the offsets, float32 [rows, groups], with which `numbers` come closest to the weights.

    A weight is number * scale + offset, its number the code less its zero point; weights and numbers are
    float32 [rows, columns]. Offsets stay, or are fitted too where they may move.
    """
    columns = weights.shape[1]
    size = columns // scales.shape[1]
    scales, offsets = scales.copy(), offsets.copy()
    for block, hessian in zip(column_blocks(columns), feedback.hessians, strict=True):
        first = block.start // size
        groups = slice(first, first + len(hessian) // size)
        q = np.ascontiguousarray(numbers[:, block].T).reshape(-1, size, len(weights))  # [groups, size, rows]
        line = scales.T[groups, None], offsets.T[groups, None]
        left = weights[:, block].T.reshape(q.shape) - (q * line[0] + line[1])
        for place, group in enumerate(range(first, groups.stop)):
            own = slice(place * size, (place + 1) * size)
            pull, push = np.zeros_like(q[0]), np.zeros_like(q[0])  # of all errors, of the group's own numbers
            for column, error in enumerate(left.reshape(-1, len(weights))):
                pull += hessian[own, column, None] * error
            for column, number in enumerate(q[place]):
                push += hessian[own, place * size + column, None] * number
            step, shift = _best_change(pull, push, q[place], hessian[own, own], move_offsets=move_offsets)
            left[place] -= q[place] * step + shift
            scales[:, group] += step
            offsets[:, group] += shift
    return scales, offsets


def _best_change(
    pull: Floats, push: Floats, numbers: Floats, hessian: Floats, *, move_offsets: bool
) -> tuple[Floats, Floats]:
    """By what a group's scale and offset change, [rows]; all but hessian are [size, rows]."""
    scale_pull, scale_push, offset_pull, both_push = np.zeros((4, numbers.shape[1]), np.float32)
    offset_push = _ZERO
    for column, number in enumerate(numbers):
        scale_pull += number * pull[column]
        scale_push += number * push[column]
        offset_pull += pull[column]
        both_push += push[column]
        for other in hessian[column]:
            offset_push += other
    with np.errstate(all="ignore"):
        if not move_offsets:
            return np.where(scale_push > _ZERO, scale_pull / scale_push, _ZERO), np.zeros_like(scale_pull)
        product = scale_push * offset_push
        determinant = product - both_push * both_push
        known = determinant > LEAST_DETERMINANT * product
        step = (scale_pull * offset_push - offset_pull * both_push) / determinant
        shift = (offset_pull * scale_push - scale_pull * both_push) / determinant
        return np.where(known, step, _ZERO), np.where(known, shift, _ZERO)
