"""The sums of `group_fit` compiled for this processor: the same in the same order, so the same bits, faster.

Numba compiles a function when it is first called; nothing is kept on the disk. A group is in each lane of a
vector, and a code is added to all sums as soon as it is found, where NumPy writes all codes down first.
"Fast" mathematics, which may change the order of sums, stays off.

x, importance and weighted (their product) are float32 [size, groups]; all else is [groups].
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_LANES = 64

_compiled = njit(nogil=True, error_model="numpy", boundscheck=False)


def moments(
    x: Floats,
    importance: Floats,
    weighted: Floats,
    inverse: Floats,
    minimum: Floats,
    lowest: np.float32,
    highest: np.float32,
) -> tuple[Floats, Floats, Floats]:
    """The sums of importance times code, code**2 and code * x."""
    sums = np.empty((3, len(inverse)), np.float32)
    _moments(x, importance, weighted, inverse, minimum, lowest, highest, sums)
    return sums[0], sums[1], sums[2]


def errors(
    x: Floats,
    importance: Floats,
    inverse: Floats,
    scale: Floats,
    minimum: Floats,
    lowest: np.float32,
    highest: np.float32,
) -> tuple[Floats, Floats]:
    """The sums of importance times the squared error, and times what a weight is too high by."""
    sums = np.empty((2, len(inverse)), np.float32)
    _errors(x, importance, inverse, scale, minimum, lowest, highest, sums)
    return sums[0], sums[1]


@_compiled
def _moments(  # type: ignore[no-untyped-def]
    x, importance, weighted, inverse, minimum, lowest, highest, sums
):
    factor, shift = np.empty(_LANES, np.float32), np.empty(_LANES, np.float32)
    once, twice, along = (
        np.empty(_LANES, np.float32),
        np.empty(_LANES, np.float32),
        np.empty(_LANES, np.float32),
    )
    groups = x.shape[1]
    for tile in range(0, groups, _LANES):
        # The last lanes are computed twice where they do not fill a tile.
        start = max(0, min(tile, groups - _LANES))
        lanes = min(_LANES, groups)
        for i in range(lanes):
            factor[i], shift[i] = inverse[start + i], minimum[start + i]
        # A sum begins with its first number: from 0 on, -0 would come out as 0.
        for i in range(lanes):
            code = _nearest(x[0, start + i], factor[i], shift[i], lowest, highest)
            once[i] = importance[0, start + i] * code
            twice[i] = once[i] * code
            along[i] = weighted[0, start + i] * code
        for k in range(1, x.shape[0]):
            row, counts, products = x[k], importance[k], weighted[k]
            for i in range(lanes):
                code = _nearest(row[start + i], factor[i], shift[i], lowest, highest)
                counted = counts[start + i] * code
                once[i] += counted
                twice[i] += counted * code
                along[i] += products[start + i] * code
        for i in range(lanes):
            sums[0, start + i], sums[1, start + i], sums[2, start + i] = once[i], twice[i], along[i]


@_compiled
def _errors(  # type: ignore[no-untyped-def]
    x, importance, inverse, scale, minimum, lowest, highest, sums
):
    factor, shift, step = (
        np.empty(_LANES, np.float32),
        np.empty(_LANES, np.float32),
        np.empty(_LANES, np.float32),
    )
    error, high = np.empty(_LANES, np.float32), np.empty(_LANES, np.float32)
    groups = x.shape[1]
    for tile in range(0, groups, _LANES):
        start = max(0, min(tile, groups - _LANES))
        lanes = min(_LANES, groups)
        for i in range(lanes):
            factor[i], shift[i], step[i] = inverse[start + i], minimum[start + i], scale[start + i]
        for i in range(lanes):
            code = _nearest(x[0, start + i], factor[i], shift[i], lowest, highest)
            over = code * step[i] - shift[i] - x[0, start + i]
            high[i] = importance[0, start + i] * over
            error[i] = high[i] * over
        for k in range(1, x.shape[0]):
            row, counts = x[k], importance[k]
            for i in range(lanes):
                code = _nearest(row[start + i], factor[i], shift[i], lowest, highest)
                over = code * step[i] - shift[i] - row[start + i]
                counted = counts[start + i] * over
                high[i] += counted
                error[i] += counted * over
        for i in range(lanes):
            sums[0, start + i], sums[1, start + i] = error[i], high[i]


@_compiled
def _nearest(x, inverse, minimum, lowest, highest):  # type: ignore[no-untyped-def]
    code = np.rint((x + minimum) * inverse)
    code = lowest if code < lowest else code
    return highest if code > highest else code
