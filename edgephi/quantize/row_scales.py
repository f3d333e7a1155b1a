"""Codes for engines that keep one scale a row: whole multiples of it for groups, or nothing finer.

With 4 bits a group's scale is that of its row times a whole number from 1 to 16, which Qualcomm's HTP calls
low-power block quantisation: the products of all groups of a row can be added up as integers. With 8 bits
there is one scale a row. Codes are those of signed numbers, -8 to 7 or -128 to 127, with no zero point.

The row's group with the largest span always has the multiple 16, because a compiler finds the row's scale as
a sixteenth of its largest group's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgephi.declared.recipe import Method
from edgephi.quantize.groups import ErrorSums, Groups, NotFiniteError
from edgephi.quantize.tensor_plan import TensorPlan

Floats = NDArray[np.float32]

LARGEST_MULTIPLE = 16


@dataclass(frozen=True)
class _Search:
    """What a method tries.

    clippings: of a row's largest group; 1 keeps its largest weight, less gives all groups a finer grid
    steps_down: how far below the multiple that spans it that of a group may lie
    """

    clippings: tuple[float, ...]
    steps_down: tuple[int, ...]


_WEIGHTED = _Search((1.0, 0.9, 0.8, 0.7), (0, 1, 2, 3, 4, 5, 6))
_SEARCHES: Mapping[Method, _Search] = {
    "rtn": _Search((1.0,), (0,)),
    "search": _Search((1.0, 0.9), (0, 1, 2)),
    "weighted": _WEIGHTED,
    "calibrated": _WEIGHTED,
}
# Weights whose numbers and scratch memory lie in a core's own cache together.
_CHUNK_WEIGHTS = 1 << 17


class RowScales:
    """Quantises blocks of rows by plans whose scales are "multiples"."""

    def quantize(self, weights: Floats, plan: TensorPlan) -> Groups:
        """Quantise float32 [rows, columns]; scales come out as float32, [rows, groups] or [rows, 1].

        Raises NotFiniteError when a weight is NaN or infinite.
        """
        rows, columns = weights.shape
        importance = plan.importance
        if importance is not None:
            importance = importance.reshape(1, -1, _group_size(columns, plan))
        step = max(1, _CHUNK_WEIGHTS // columns)
        chunks = [
            _quantize_rows(weights[start : start + step], plan, importance) for start in range(0, rows, step)
        ]
        return Groups(
            codes=np.concatenate([chunk.codes for chunk in chunks]),
            scales=np.concatenate([chunk.scales for chunk in chunks]),
            zero_points=None,
            sums=sum((chunk.sums for chunk in chunks), ErrorSums()),
        )


def _group_size(columns: int, plan: TensorPlan) -> int:
    """Columns that share a scale."""
    return plan.quantised.group_size if plan.quantised.bits == 4 else columns


def _quantize_rows(weights: Floats, plan: TensorPlan, importance: Floats | None) -> Groups:
    """Quantise some rows; importance is float32 [1, groups, size]."""
    rows, columns = weights.shape
    scheme, middle = plan.quantised, plan.quantised.middle
    x = weights.reshape(rows, -1, _group_size(columns, plan))  # [rows, groups, size]
    low, high = x.min(axis=2), x.max(axis=2)  # [rows, groups]
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise NotFiniteError("NaN or infinity")
    # The largest weight may be rounded to the outermost code from just beyond it.
    spans = np.maximum(high / np.float32(middle - 0.6), low / np.float32(-middle - 0.4))
    spans[spans.max(axis=1) == 0] = 1  # a row of zeros: any scale does
    if scheme.bits == 4:
        scales = _multiples(x, spans, middle, importance, _SEARCHES[plan.method])
    else:
        scales = np.maximum(high / np.float32(middle - 1), low / np.float32(-middle))
        scales[scales == 0] = 1
    s = _rounded(x, scales, middle)  # [rows, groups, size]
    error, norm = _error_and_norm(x, s, scales, None)
    weighted_error, weighted_norm = error, norm
    if importance is not None:
        weighted_error, weighted_norm = _error_and_norm(x, s, scales, importance)
    return Groups(
        codes=(s + np.float32(middle)).astype(np.uint8).reshape(rows, columns),
        scales=scales,
        zero_points=None,
        sums=ErrorSums(error, norm, weighted_error, weighted_norm),
    )


def _error_and_norm(x: Floats, s: Floats, scales: Floats, importance: Floats | None) -> tuple[float, float]:
    """The sums over all numbers of (s * scale - x)**2 and x**2."""
    along, length = _product(x, s, importance), _product(s, s, importance)  # [rows, groups]
    squared_norm = _product(x, x, importance)
    squared_error = squared_norm - 2 * scales * along + scales * scales * length
    error, norm = (float(each.sum(dtype=np.float64)) for each in (squared_error, squared_norm))
    return max(0.0, error), norm


def _product(a: Floats, b: Floats, importance: Floats | None) -> Floats:
    """The products of groups, each number of them counted by its importance: [rows, groups]."""
    products: Floats = np.vecdot(a if importance is None else a * importance, b)
    return products


def _multiples(x: Floats, spans: Floats, middle: int, importance: Floats | None, search: _Search) -> Floats:
    """Scales of x [rows, groups, size]: whole multiples of a row's scale, float32 [rows, groups]."""
    largest = spans.max(axis=1, keepdims=True)  # [rows, 1]
    best_error = np.full((len(x), 1), np.inf, np.float32)
    unit, multiples = np.empty_like(largest), np.empty_like(spans)
    for clipping in search.clippings:
        row_unit = largest * np.float32(clipping / LARGEST_MULTIPLE)
        chosen, error = _best_multiples(
            x, spans, row_unit, middle, importance=importance, steps_down=search.steps_down
        )
        better = error < best_error
        np.copyto(unit, row_unit, where=better)
        np.copyto(multiples, chosen, where=better)
        np.copyto(best_error, error, where=better)
    if len(search.clippings) > 1:
        # The row's scale with the least squared error for these codes and multiples.
        s = _rounded(x, unit * multiples, middle)
        along = (multiples * _product(x, s, importance)).sum(axis=1, keepdims=True)
        length = (multiples * multiples * _product(s, s, importance)).sum(axis=1, keepdims=True)
        np.divide(along, length, out=unit, where=(length > 0) & (along > 0))
    scales: Floats = unit * multiples
    return scales


def _best_multiples(
    x: Floats,
    spans: Floats,
    unit: Floats,
    middle: int,
    *,
    importance: Floats | None,
    steps_down: tuple[int, ...],
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
        error = scales * (scales * _product(s, s, importance) - 2 * _product(x, s, importance))
        best = np.where(error < best_error, multiples, best)
        best_error = np.minimum(error, best_error)
    return best, best_error.sum(axis=1, keepdims=True)


def _rounded(x: Floats, scales: Floats, middle: int) -> Floats:
    """Numbers x [rows, groups, size] in units of its scales, rounded to the nearest signed code."""
    s: Floats = x * (np.float32(1) / scales)[:, :, None]
    np.rint(s, out=s)
    np.clip(s, -middle, middle - 1, out=s)
    return s
