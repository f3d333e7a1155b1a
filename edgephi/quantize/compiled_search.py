"""`weighted_search` compiled for this processor: the same sums in the same order, so the same bits, faster.

Numba compiles a function when it is first called, in a second or two; nothing is kept on the disk. Each
works on tiles of one group of columns and many rows, which stay in the innermost cache, with a row in each
lane of a vector, and lets go of the GIL. "Fast" mathematics, which may change the order of sums, stays off.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgephi.quantize.weighted_search import (
    OFFSET_CANDIDATES,
    OFFSET_FITS,
    SINGULAR,
    SMALLEST,
    SYMMETRIC_CANDIDATES,
    TINY,
    ZERO_POINT_CANDIDATES,
)

Floats = NDArray[np.float32]

_TILE_ROWS = 64
_ONE = np.float32(1)
_TWO = np.float32(2)
_ZERO = np.float32(0)

_compiled = njit(nogil=True, error_model="numpy", boundscheck=False)


def symmetric_scales(x: Floats, importance: Floats, size: int, middle: int) -> Floats:
    """What `weighted_search.symmetric_scales` returns."""
    scales = np.empty((len(x), x.shape[1] // size), np.float32)
    _symmetric(x, importance, size, np.float32(middle), np.float32(-1 / middle), SYMMETRIC_CANDIDATES, scales)
    return scales


def zero_point_scales(x: Floats, importance: Floats, size: int, levels: int) -> tuple[Floats, Floats]:
    """What `weighted_search.zero_point_scales` returns."""
    scales = np.empty((len(x), x.shape[1] // size), np.float32)
    zero_points = np.empty_like(scales)
    share = np.float32(1 / (levels - 1))
    _zero_point(
        x, importance, size, np.float32(levels - 1), share, ZERO_POINT_CANDIDATES, scales, zero_points
    )
    return scales, zero_points


def offset_scales(x: Floats, importance: Floats, size: int, levels: int) -> tuple[Floats, Floats]:
    """What `weighted_search.offset_scales` returns."""
    scales = np.empty((len(x), x.shape[1] // size), np.float32)
    offsets = np.empty_like(scales)
    share = np.float32(1 / (levels - 1))
    _offset(x, importance, size, np.float32(levels - 1), share, OFFSET_CANDIDATES, scales, offsets)
    return scales, offsets


@_compiled
def _symmetric(x, importance, size, middle, share, candidates, scales):  # type: ignore[no-untyped-def]
    tile = np.empty((size, _TILE_ROWS), np.float32)
    inverse = np.empty(_TILE_ROWS, np.float32)
    unit, along, length, best, scale = (
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
    )
    low, high = -middle, middle - _ONE
    for start in range(0, x.shape[0], _TILE_ROWS):
        rows = min(_TILE_ROWS, x.shape[0] - start)
        for group in range(x.shape[1] // size):
            first = group * size
            tile[:, rows:] = _ZERO
            for i in range(rows):
                least = largest = x[start + i, first]
                for k in range(size):
                    value = x[start + i, first + k]
                    tile[k, i] = value
                    least, largest = min(least, value), max(largest, value)
                unit[i] = _raised((largest if largest > -least else least) * share)
            for i in range(rows, _TILE_ROWS):
                unit[i] = _ONE
            best[:] = -_ONE
            for candidate in candidates:
                for i in range(_TILE_ROWS):
                    inverse[i] = _ONE / (unit[i] * candidate)
                _fit(tile, importance[first : first + size], inverse, low, high, along, length)
                for i in range(_TILE_ROWS):
                    gain = along[i] * along[i] / length[i]
                    better = gain > best[i]
                    best[i] = gain if better else best[i]
                    scale[i] = along[i] / length[i] if better else scale[i]
            for i in range(_TILE_ROWS):
                inverse[i] = _ONE / _raised(scale[i])
            _fit(tile, importance[first : first + size], inverse, low, high, along, length)
            for i in range(rows):
                scales[start + i, group] = along[i] / length[i] if length[i] > TINY else scale[i]


@_compiled
def _fit(tile, importance, inverse, low, high, along, length):  # type: ignore[no-untyped-def]
    """<x, s> and <s, s> of the codes under each row's inverse scale."""
    along[:] = _ZERO
    length[:] = _ZERO
    for k in range(tile.shape[0]):
        weight = importance[k]
        for i in range(_TILE_ROWS):
            value = tile[k, i]
            s = np.rint(value * inverse[i])
            s = low if s < low else s
            s = high if s > high else s
            along[i] += s * (value * weight)
            length[i] += (s * s) * weight
    for i in range(_TILE_ROWS):
        length[i] = length[i] if length[i] > TINY else TINY


@_compiled
def _fit_between(tile, importance, inverse, zeros, last, along, length):  # type: ignore[no-untyped-def]
    """The same for codes that have a zero point a row."""
    along[:] = _ZERO
    length[:] = _ZERO
    for k in range(tile.shape[0]):
        weight = importance[k]
        for i in range(_TILE_ROWS):
            value = tile[k, i]
            s = np.rint(value * inverse[i])
            s = -zeros[i] if s < -zeros[i] else s
            s = last - zeros[i] if s > last - zeros[i] else s
            along[i] += s * (value * weight)
            length[i] += (s * s) * weight
    for i in range(_TILE_ROWS):
        length[i] = length[i] if length[i] > TINY else TINY


@_compiled
def _raised(scale):  # type: ignore[no-untyped-def]
    return SMALLEST if abs(scale) < SMALLEST else scale


@_compiled
def _zero_point(x, importance, size, last, share, candidates, scales, zero_points):  # type: ignore[no-untyped-def]
    tile = np.empty((size, _TILE_ROWS), np.float32)
    inverse = np.empty(_TILE_ROWS, np.float32)
    lows, spans, unit, along, length, best, scale, zeros, zero_point = (
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
    )
    for start in range(0, x.shape[0], _TILE_ROWS):
        rows = min(_TILE_ROWS, x.shape[0] - start)
        for group in range(x.shape[1] // size):
            first = group * size
            tile[:, rows:] = _ZERO
            lows[rows:] = _ZERO
            spans[rows:] = _ZERO
            unit[rows:] = _ONE
            for i in range(rows):
                least = largest = _ZERO
                for k in range(size):
                    value = x[start + i, first + k]
                    tile[k, i] = value
                    least, largest = min(least, value), max(largest, value)
                lows[i], spans[i] = least, largest - least
                unit[i] = _raised((largest - least) * share)
            best[:] = -_ONE
            for turn in range(len(candidates)):
                multiple, end = candidates[turn, 0], candidates[turn, 1]
                for i in range(_TILE_ROWS):
                    inverse[i] = _ONE / (unit[i] * multiple)
                    held = lows[i] + spans[i] * end
                    zero = np.rint(end * last - held * inverse[i])
                    zero = _ZERO if zero < _ZERO else zero
                    zeros[i] = last if zero > last else zero
                _fit_between(tile, importance[first : first + size], inverse, zeros, last, along, length)
                for i in range(_TILE_ROWS):
                    gain = along[i] * along[i] / length[i]
                    better = gain > best[i]
                    best[i] = gain if better else best[i]
                    scale[i] = along[i] / length[i] if better else scale[i]
                    zero_point[i] = zeros[i] if better else zero_point[i]
            for i in range(_TILE_ROWS):
                inverse[i] = _ONE / _raised(scale[i])
            _fit_between(tile, importance[first : first + size], inverse, zero_point, last, along, length)
            for i in range(rows):
                scales[start + i, group] = along[i] / length[i] if length[i] > TINY else scale[i]
                zero_points[start + i, group] = zero_point[i]


@_compiled
def _offset(x, importance, size, last, share, candidates, scales, offsets):  # type: ignore[no-untyped-def]
    tile = np.empty((size, _TILE_ROWS), np.float32)
    lows, unit, first_sum, second, along, codes, length = (
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
    )
    best, best_scale, best_offset, scale, offset, inverse = (
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
        np.empty(_TILE_ROWS, np.float32),
    )
    for start in range(0, x.shape[0], _TILE_ROWS):
        rows = min(_TILE_ROWS, x.shape[0] - start)
        for group in range(x.shape[1] // size):
            first = group * size
            tile[:, rows:] = _ZERO
            lows[rows:] = _ZERO
            unit[rows:] = _ONE
            for i in range(rows):
                least = largest = x[start + i, first]
                for k in range(size):
                    value = x[start + i, first + k]
                    tile[k, i] = value
                    least, largest = min(least, value), max(largest, value)
                lows[i] = least
                spanning = (largest - least) * share
                unit[i] = SMALLEST if spanning < SMALLEST else spanning
            total = _ZERO
            first_sum[:] = _ZERO
            second[:] = _ZERO
            for k in range(size):
                weight = importance[first + k]
                total += weight
                for i in range(_TILE_ROWS):
                    weighted = tile[k, i] * weight
                    first_sum[i] += weighted
                    second[i] += weighted * tile[k, i]
            best[:] = np.float32(np.inf)
            best_scale[:] = unit
            best_offset[:] = lows
            for turn in range(len(candidates) + OFFSET_FITS):
                for i in range(_TILE_ROWS):
                    scale[i], offset[i] = best_scale[i], best_offset[i]
                if turn < len(candidates):
                    held = candidates[turn, 1] * last
                    for i in range(_TILE_ROWS):
                        scale[i] = unit[i] * candidates[turn, 0]
                        offset[i] = lows[i] + (unit[i] - scale[i]) * held
                along[:] = _ZERO
                codes[:] = _ZERO
                length[:] = _ZERO
                for i in range(_TILE_ROWS):
                    inverse[i] = _ONE / scale[i]
                for k in range(size):
                    weight = importance[first + k]
                    for i in range(_TILE_ROWS):
                        value = tile[k, i]
                        q = np.rint((value - offset[i]) * inverse[i])
                        q = _ZERO if q < _ZERO else q
                        q = last if q > last else q
                        along[i] += (value * weight) * q
                        codes[i] += weight * q
                        length[i] += (q * q) * weight
                for i in range(_TILE_ROWS):
                    determinant = total * length[i] - codes[i] * codes[i]
                    sound = determinant > SINGULAR * (total * length[i])
                    divisor = determinant if sound else _ONE
                    fitted = (total * along[i] - codes[i] * first_sum[i]) / divisor
                    moved = (length[i] * first_sum[i] - codes[i] * along[i]) / divisor
                    sound = sound and fitted > SMALLEST
                    scale[i] = fitted if sound else scale[i]
                    offset[i] = moved if sound else offset[i]
                    error = second[i] - _TWO * (scale[i] * along[i]) - _TWO * (offset[i] * first_sum[i])
                    error += scale[i] * scale[i] * length[i]
                    error += _TWO * (scale[i] * offset[i] * codes[i])
                    error += offset[i] * offset[i] * total
                    better = error < best[i]
                    best[i] = error if better else best[i]
                    best_scale[i] = scale[i] if better else best_scale[i]
                    best_offset[i] = offset[i] if better else best_offset[i]
            for i in range(rows):
                scales[start + i, group] = best_scale[i]
                offsets[start + i, group] = best_offset[i]
