"""The scales with the least error where a matrix's inputs are large: the search of the method "weighted".

A product's squared error is the sum of E[x_j²] e_j² over a row's weights when their errors e_j are
independent, so each counts as much as its input's mean square, its importance. With codes s (less the zero
point) the best scale is <x, s> / <s, s>, all products weighted, and takes <x, s>² / <s, s> from the error;
where a group has an offset, codes and weights are fitted with a line. Candidates reach from half to 1.2 times
the span, because a group with one dominant input is best served by fitting that one alone.

Sums run along a group one weight after the other, in float32, for many groups at once. So no result depends
on a library's blocking or a processor's vector width, and `compiled_search` gives the same bits faster. What
stands here is its oracle, and does the work where compiling would take longer.

x is float32 [rows, columns] and importance [columns]; what comes out is float32 [rows, columns / size].
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_STEPS = np.round(np.arange(0.5, 1.25, 0.05), 2)
SYMMETRIC_CANDIDATES = np.concatenate([_STEPS, -_STEPS]).astype(np.float32)
"""Multiples of the spanning scale. There is one code more below zero than above, so both signs are tried."""
ZERO_POINT_CANDIDATES = np.array(
    [(round(0.6 + 0.06 * step, 2), (0.75, 0.25)[step % 2]) for step in range(10)], np.float32
)
"""Multiples of the spanning scale, and where they hold: 0 the group's lowest weight, 1 its highest.

So what a small scale misses lies at both ends, and at neither always more: 2 % less error than with all of it
at the highest weight.
"""
OFFSET_CANDIDATES = np.array(
    [
        *((round(0.94 + 0.03 * step, 2), step % 2) for step in range(9)),
        (0.6, 0.5),
        (0.8, 0.5),
    ],
    np.float32,
)
"""Multiples of the spanning scale, and where they hold: 0 the group's lowest weight, 1 its highest.

Where a line that is fitted to its codes ends depends on where it began. Scales that reach further than the
group does, held at either end by turns, find 5 to 8 % less error than as many held at the lowest.
"""
OFFSET_FITS = 2
"""How often codes and line of the best candidate are fitted to each other again."""
SMALLEST = np.float32(1e-10)
"""Spanning scales below it are raised to it; float16 makes zero of both."""
TINY = np.float32(1e-30)
SINGULAR = np.float32(1e-20)
"""A determinant below so much of its largest term has no digits: a line through one code only."""

# Weights whose numbers and scratch memory lie in a core's own cache together.
_CHUNK_WEIGHTS = 1 << 16


def symmetric_scales(x: Floats, importance: Floats, size: int, middle: int) -> Floats:
    """The scale of each group of `size` columns; codes reach from -middle to middle - 1."""
    scales = np.empty((len(x), x.shape[1] // size), np.float32)
    for rows, xs, weights in _chunks(x, importance, size):
        low, high = xs.min(axis=0), xs.max(axis=0)
        unit = _raised(np.where(high > -low, high, low) * np.float32(-1 / middle))
        best, scale = np.full_like(unit, -1), np.empty_like(unit)
        weighted = xs * weights
        for candidate in SYMMETRIC_CANDIDATES:
            s = _rounded(xs, np.float32(1) / (unit * candidate), -middle, middle - 1)
            along, length = _products(s, weighted, weights)
            gain = along * along / length
            better = gain > best
            np.copyto(best, gain, where=better)
            np.copyto(scale, along / length, where=better)
        s = _rounded(xs, np.float32(1) / _raised(scale), -middle, middle - 1)
        along, length = _products(s, weighted, weights)
        scales[rows] = np.where(length > TINY, along / length, scale).reshape(-1, scales.shape[1])
    return scales


def zero_point_scales(x: Floats, importance: Floats, size: int, levels: int) -> tuple[Floats, Floats]:
    """The scale and the zero point of each group; codes reach from 0 to levels - 1."""
    scales = np.empty((len(x), x.shape[1] // size), np.float32)
    zero_points = np.empty_like(scales)
    last = np.float32(levels - 1)
    for rows, xs, weights in _chunks(x, importance, size):
        low, high = np.minimum(xs.min(axis=0), 0), np.maximum(xs.max(axis=0), 0)
        unit = _raised((high - low) * np.float32(1 / (levels - 1)))
        best, scale, zero_point = np.full_like(unit, -1), np.empty_like(unit), np.empty_like(unit)
        weighted = xs * weights
        for multiple, end in ZERO_POINT_CANDIDATES:
            inverse = np.float32(1) / (unit * multiple)
            held = low + (high - low) * end
            zeros = np.rint(end * last - held * inverse)
            np.clip(zeros, 0, last, out=zeros)
            s = _rounded(xs, inverse, -zeros, last - zeros)
            along, length = _products(s, weighted, weights)
            gain = along * along / length
            better = gain > best
            np.copyto(best, gain, where=better)
            np.copyto(scale, along / length, where=better)
            np.copyto(zero_point, zeros, where=better)
        s = _rounded(xs, np.float32(1) / _raised(scale), -zero_point, last - zero_point)
        along, length = _products(s, weighted, weights)
        scales[rows] = np.where(length > TINY, along / length, scale).reshape(-1, scales.shape[1])
        zero_points[rows] = zero_point.reshape(-1, scales.shape[1])
    return scales, zero_points


def offset_scales(x: Floats, importance: Floats, size: int, levels: int) -> tuple[Floats, Floats]:
    """The scale and the offset of each group: weight = code * scale + offset, codes from 0 to levels - 1."""
    scales = np.empty((len(x), x.shape[1] // size), np.float32)
    offsets = np.empty_like(scales)
    last = np.float32(levels - 1)
    for rows, xs, weights in _chunks(x, importance, size):
        low, high = xs.min(axis=0), xs.max(axis=0)
        unit = np.maximum((high - low) * np.float32(1 / (levels - 1)), SMALLEST)
        best, best_scale, best_offset = np.full_like(unit, np.inf), unit, low
        weighted = xs * weights
        total = _sum(np.broadcast_to(weights, xs.shape))
        first, second = _sum(weighted), _sum(weighted * xs)
        for turn in range(len(OFFSET_CANDIDATES) + OFFSET_FITS):
            scale, offset = best_scale, best_offset
            if turn < len(OFFSET_CANDIDATES):
                multiple, end = OFFSET_CANDIDATES[turn]
                scale = unit * multiple
                offset = low + (unit - scale) * (end * last)
            q = np.rint((xs - offset) * (np.float32(1) / scale))
            np.clip(q, 0, last, out=q)
            along = _sum(weighted * q)
            codes = _sum(weights * q)
            length = _sum(q * q * weights)
            determinant = total * length - codes * codes
            sound = determinant > SINGULAR * (total * length)
            divisor = np.where(sound, determinant, np.float32(1))
            fitted = (total * along - codes * first) / divisor
            moved = (length * first - codes * along) / divisor
            sound &= fitted > SMALLEST
            scale = np.where(sound, fitted, scale)
            offset = np.where(sound, moved, offset)
            error = second - 2 * (scale * along) - 2 * (offset * first)
            error += scale * scale * length
            error += 2 * (scale * offset * codes)
            error += offset * offset * total
            better = error < best
            best = np.where(better, error, best)
            best_scale = np.where(better, scale, best_scale)
            best_offset = np.where(better, offset, best_offset)
        scales[rows] = best_scale.reshape(-1, scales.shape[1])
        offsets[rows] = best_offset.reshape(-1, scales.shape[1])
    return scales, offsets


def spanning_line(x: Floats, size: int, levels: int) -> tuple[Floats, Floats]:
    """The scale and the offset that put a group's ends on the outermost codes: no search at all."""
    grouped = x.reshape(len(x), -1, size)  # [rows, groups, size]
    low, high = grouped.min(axis=2), grouped.max(axis=2)
    return (high - low) * np.float32(1 / (levels - 1)), low


def _chunks(x: Floats, importance: Floats, size: int) -> Iterator[tuple[slice, Floats, Floats]]:
    """Rows, as [size, groups] with its groups row after row, and the importance of every number of it."""
    columns = x.shape[1]
    step = max(1, _CHUNK_WEIGHTS // columns)
    tiled = np.tile(importance.reshape(-1, size).T, step)  # [size, groups]
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        across = np.ascontiguousarray(x[rows].reshape(-1, size).T)
        yield rows, across, np.ascontiguousarray(tiled[:, : across.shape[1]])


def _raised(scale: Floats) -> Floats:
    raised: Floats = np.where(np.abs(scale) < SMALLEST, SMALLEST, scale)
    return raised


def _rounded(xs: Floats, inverse: Floats, low: Floats | int, high: Floats | int) -> Floats:
    s: Floats = xs * inverse
    np.rint(s, out=s)
    np.clip(s, low, high, out=s)
    return s


def _products(s: Floats, weighted: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """<x, s> and <s, s>, the latter at least TINY: [groups] each."""
    along = _sum(s * weighted)
    s *= s
    s *= weights
    return along, np.maximum(_sum(s), TINY)


def _sum(numbers: Floats) -> Floats:
    """Sums along the first axis, in its order."""
    # Of a single column NumPy adds in pairs.
    one = numbers.shape[1] == 1
    summed: Floats = np.add.accumulate(numbers, axis=0)[-1] if one else np.add.reduce(numbers, axis=0)
    return summed
