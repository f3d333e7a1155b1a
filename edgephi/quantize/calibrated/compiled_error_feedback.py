"""`error_feedback` compiled for this processor: the same numbers in the same order, so the same bits, faster.

As in `compiled_search`, a row of the matrix goes in each lane of a vector, and a tile of a block's columns
and many rows stays in the innermost cache.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgephi.quantize.calibrated.error_feedback import BLOCK_COLUMNS, Feedback

Floats = NDArray[np.float32]

_TILE_ROWS = 64
_ZERO = np.float32(0)
_ONE = np.float32(1)

_compiled = njit(nogil=True, error_model="numpy", boundscheck=False)


def feedback_codes(
    weights: Floats, scales: Floats, offsets: Floats, feedback: Feedback, levels: int
) -> NDArray[np.uint8]:
    """What `error_feedback.feedback_codes` returns."""
    codes = np.empty(weights.shape, np.uint8)
    size = weights.shape[1] // scales.shape[1]
    _codes(weights, scales, offsets, feedback.order, feedback.shares, size, np.float32(levels - 1), codes)
    return codes


@_compiled
def _codes(weights, scales, offsets, order, shares, size, last, codes):  # type: ignore[no-untyped-def]
    left = np.empty((BLOCK_COLUMNS, _TILE_ROWS), np.float32)
    scale, offset, inverse, error, q = (
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
    )
    count, columns = weights.shape
    for start in range(0, count, _TILE_ROWS):
        rows = min(_TILE_ROWS, count - start)
        left[:, rows:] = _ZERO
        scale[rows:] = _ZERO
        offset[rows:] = _ZERO
        inverse[rows:] = _ZERO
        for first in range(0, columns, BLOCK_COLUMNS):
            places = min(BLOCK_COLUMNS, columns - first)
            for place in range(places):
                column = order[first + place]
                for i in range(rows):
                    left[place, i] = weights[start + i, column]
            for place in range(places):
                column = order[first + place]
                group = column // size
                for i in range(rows):
                    scale[i] = scales[start + i, group]
                    offset[i] = offsets[start + i, group]
                    inverse[i] = _ONE / scale[i] if scale[i] != _ZERO else _ZERO
                for i in range(_TILE_ROWS):
                    rounded = np.rint((left[place, i] - offset[i]) * inverse[i])
                    rounded = _ZERO if rounded < _ZERO else rounded
                    rounded = last if rounded > last else rounded
                    q[i] = rounded
                    error[i] = left[place, i] - (rounded * scale[i] + offset[i])
                for i in range(rows):
                    codes[start + i, column] = np.uint8(q[i])
                for other in range(place + 1, places):
                    share = shares[first + place, other]
                    for i in range(_TILE_ROWS):
                        left[other, i] -= error[i] * share
