"""Codes for engines that keep one scale a row: whole multiples of it for groups, or nothing finer.

With 4 bits a group's scale is that of its row times a whole number from 1 to 16, which Qualcomm's HTP calls
low-power block quantisation: the products of all groups of a row can be added up as integers. With 8 bits
there is one scale a row. Codes are those of signed numbers, -8 to 7 or -128 to 127, with no zero point.

The row's group with the largest span always has the multiple 16, because a compiler finds the row's scale as
a sixteenth of its largest group's.
"""

import numpy as np
from numpy.typing import NDArray

from edgephi.quantize.groups import Groups, NotFiniteError
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan

Floats = NDArray[np.float32]

LARGEST_MULTIPLE = 16

# Inverse clipping of a row's largest group: 1 keeps its largest weight, less gives all groups a finer grid.
_ROW_CANDIDATES = (1.0, 0.9)
# A group may have a multiple below the one that spans it.
_STEPS_DOWN = (0, 1, 2)
# Weights whose numbers and scratch memory lie in a core's own cache together.
_CHUNK_WEIGHTS = 1 << 17


class RowScales:
    """Quantises blocks of rows by plans whose scales are "multiples"."""

    def quantize(self, weights: Floats, plan: TensorPlan) -> Groups:
        """Quantise float32 [rows, columns]; scales come out as float32, [rows, groups] or [rows, 1].

        Raises NotFiniteError when a weight is NaN or infinite.
        """
        searched = plan.method == "search"
        rows, columns = weights.shape
        step = max(1, _CHUNK_WEIGHTS // columns)
        chunks = [
            _quantize_rows(weights[start : start + step], plan.quantised, searched=searched)
            for start in range(0, rows, step)
        ]
        squared_error = sum(chunk.squared_error for chunk in chunks)
        return Groups(
            codes=np.concatenate([chunk.codes for chunk in chunks]),
            scales=np.concatenate([chunk.scales for chunk in chunks]),
            zero_points=None,
            squared_error=squared_error,
            squared_norm=sum(chunk.squared_norm for chunk in chunks),
        )


def _quantize_rows(weights: Floats, scheme: Scheme, *, searched: bool) -> Groups:
    rows, columns = weights.shape
    middle = scheme.middle
    size = scheme.group_size if scheme.bits == 4 else columns
    x = weights.reshape(rows, -1, size)  # [rows, groups, size]
    low, high = x.min(axis=2), x.max(axis=2)  # [rows, groups]
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise NotFiniteError("NaN or infinity")
    # The largest weight may be rounded to the outermost code from just beyond it.
    spans = np.maximum(high / np.float32(middle - 0.6), low / np.float32(-middle - 0.4))
    spans[spans.max(axis=1) == 0] = 1  # a row of zeros: any scale does
    if scheme.bits == 4:
        scales = _multiples(x, spans, scheme.middle, searched=searched)
    else:
        scales = np.maximum(high / np.float32(middle - 1), low / np.float32(-middle))
        scales[scales == 0] = 1
    s = _rounded(x, scales, middle)  # [rows, groups, size]
    along, length = np.vecdot(x, s), np.vecdot(s, s)  # [rows, groups]
    squared_norm = np.vecdot(x, x)
    squared_error = squared_norm - 2 * scales * along + scales * scales * length
    return Groups(
        codes=(s + np.float32(middle)).astype(np.uint8).reshape(rows, columns),
        scales=scales,
        zero_points=None,
        squared_error=max(0.0, float(squared_error.sum(dtype=np.float64))),
        squared_norm=float(squared_norm.sum(dtype=np.float64)),
    )


def _multiples(x: Floats, spans: Floats, middle: int, *, searched: bool) -> Floats:
    """Scales of x [rows, groups, size]: whole multiples of a row's scale, float32 [rows, groups]."""
    largest = spans.max(axis=1, keepdims=True)  # [rows, 1]
    best_error = np.full((len(x), 1), np.inf, np.float32)
    unit, multiples = np.empty_like(largest), np.empty_like(spans)
    for shrink in _ROW_CANDIDATES if searched else _ROW_CANDIDATES[:1]:
        row_unit = largest * np.float32(shrink / LARGEST_MULTIPLE)
        chosen, error = _best_multiples(
            x, spans, row_unit, middle, _STEPS_DOWN if searched else _STEPS_DOWN[:1]
        )
        better = error < best_error
        np.copyto(unit, row_unit, where=better)
        np.copyto(multiples, chosen, where=better)
        np.copyto(best_error, error, where=better)
    if searched:
        # The row's scale with the least squared error for these codes and multiples.
        s = _rounded(x, unit * multiples, middle)
        along = (multiples * np.vecdot(x, s)).sum(axis=1, keepdims=True)
        length = (multiples * multiples * np.vecdot(s, s)).sum(axis=1, keepdims=True)
        np.divide(along, length, out=unit, where=(length > 0) & (along > 0))
    scales: Floats = unit * multiples
    return scales


def _best_multiples(
    x: Floats, spans: Floats, unit: Floats, middle: int, steps_down: tuple[int, ...]
) -> tuple[Floats, Floats]:
    """For each group of x [rows, groups, size] its multiple of `unit` [rows, 1] with the least squared error.

    Returns the multiples [rows, groups] and the errors of the rows [rows, 1], less the rows' squared norms.
    """
    spanning = np.clip(np.ceil(spans / unit), 1, LARGEST_MULTIPLE)
    widest = spans == spans.max(axis=1, keepdims=True)
    spanning[widest] = LARGEST_MULTIPLE
    best, best_error = spanning, np.full_like(spanning, np.inf)
    for down in steps_down:
        multiples = np.where(widest, spanning, np.maximum(spanning - np.float32(down), 1))
        scales = unit * multiples
        s = _rounded(x, scales, middle)
        error = scales * (scales * np.vecdot(s, s) - 2 * np.vecdot(x, s))
        best = np.where(error < best_error, multiples, best)
        best_error = np.minimum(error, best_error)
    return best, best_error.sum(axis=1, keepdims=True)


def _rounded(x: Floats, scales: Floats, middle: int) -> Floats:
    """Numbers x [rows, groups, size] in units of its scales, rounded to the nearest signed code."""
    s: Floats = x * (np.float32(1) / scales)[:, :, None]
    np.rint(s, out=s)
    np.clip(s, -middle, middle - 1, out=s)
    return s
