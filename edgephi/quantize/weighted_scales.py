"""Codes with scales that fit best where a matrix's inputs are large; `weighted_search` finds these."""

import importlib
from dataclasses import replace
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from edgephi.quantize import weighted_search
from edgephi.quantize.groups import Groups, NotFiniteError, column_sums
from edgephi.quantize.tensor_plan import TensorPlan

Floats = NDArray[np.float32]

# Compiling takes as long as NumPy's search of so many weights: a demo is done before.
_WORTH_COMPILING = 1 << 25
# Weights whose numbers and scratch memory lie in a core's own cache together.
_CHUNK_WEIGHTS = 1 << 16
_FLOAT16_MAX = float(np.finfo(np.float16).max)


class WeightedScales:
    """Quantises blocks of rows by their importance. The search is compiled once that is worth it."""

    def __init__(self, compile_after: int = _WORTH_COMPILING) -> None:
        self._uncompiled_weights = compile_after
        self._search: ModuleType = weighted_search

    def quantize(self, weights: Floats, plan: TensorPlan) -> Groups:
        """Quantise float32 [rows, columns]; columns must be a multiple of the group size.

        Raises NotFiniteError when a weight is NaN, infinite or too large for a float16 scale.
        """
        scheme = plan.quantised
        importance = np.ones(weights.shape[1], np.float32) if plan.importance is None else plan.importance
        if not (np.isfinite(weights.min()) and np.isfinite(weights.max())):
            raise NotFiniteError("NaN or infinity")
        peak = float(np.abs(weights).max(initial=0))
        if peak > scheme.levels * _FLOAT16_MAX:  # no candidate is as small, and float32 must hold squares
            raise NotFiniteError(f"a group whose largest weight {peak:.3g} is past float16's range")
        # With an importance near float32's end products overflow. Whatever scale comes of it is looked at.
        with np.errstate(all="ignore"):
            return self._found(weights, importance, plan)

    def _found(self, weights: Floats, importance: Floats, plan: TensorPlan) -> Groups:
        scheme, size = plan.quantised, plan.quantised.group_size
        search = self._searching(weights.size)
        shifts: Floats | None = None
        zeros: Floats | None = None
        if scheme.scales == "offset" and plan.method == "rtn":
            scales, shifts = weighted_search.spanning_line(weights, size, scheme.levels)
        elif scheme.scales == "offset":
            scales, shifts = search.offset_scales(weights, importance, size, scheme.levels)
        elif scheme.symmetric:
            scales = search.symmetric_scales(weights, importance, size, scheme.middle)
            zeros = np.full_like(scales, scheme.middle)
        else:
            scales, zeros = search.zero_point_scales(weights, importance, size, scheme.levels)
        groups = _nearest(
            weights,
            importance,
            _as_float16(scales),
            shifts=None if shifts is None else _as_float16(shifts),
            zeros=zeros,
            levels=scheme.levels,
        )
        return replace(groups, zero_points=None) if scheme.symmetric else groups

    def _searching(self, weights: int) -> ModuleType:
        """NumPy's search for the first so many weights, then the compiled one where Numba is installed."""
        self._uncompiled_weights -= weights
        if self._uncompiled_weights < 0 and self._search is weighted_search:
            try:
                self._search = importlib.import_module("edgephi.quantize.compiled_search")
            except ImportError:
                self._uncompiled_weights = 1 << 62
        return self._search


def _as_float16(numbers: Floats) -> NDArray[np.float16]:
    """Raise NotFiniteError when float16 cannot hold one of the numbers."""
    largest = np.abs(numbers).max(initial=0)
    if not largest <= _FLOAT16_MAX:
        raise NotFiniteError(f"a group whose scale {largest:.3g} is past float16's range")
    return numbers.astype(np.float16)


def _nearest(
    weights: Floats,
    importance: Floats,
    scales: NDArray[np.float16],
    *,
    shifts: NDArray[np.float16] | None,
    zeros: Floats | None,
    levels: int,
) -> Groups:
    """The nearest codes of [rows, columns] under what the engine will multiply by, [rows, groups] each."""
    rows, columns = weights.shape
    grouped = (-1, scales.shape[1], columns // scales.shape[1])
    codes = np.empty(weights.shape, np.uint8)
    # Of each column, so that its importance need not be multiplied with every number.
    squared_errors, squared_norms = np.zeros((2, columns), np.float64)
    step = max(1, _CHUNK_WEIGHTS // columns)
    for start in range(0, rows, step):
        chunk = slice(start, start + step)
        x = weights[chunk].reshape(grouped)  # [rows, groups, size]
        scale = scales[chunk, :, None].astype(np.float32)
        # Where float16 cannot hold so small a scale, the group becomes zero, or its offset.
        inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
        shift = np.float32(0) if shifts is None else shifts[chunk, :, None].astype(np.float32)
        zero = np.float32(0) if zeros is None else zeros[chunk, :, None]
        q = (x - shift) * inverse
        np.rint(q, out=q)
        np.clip(q, -zero, levels - 1 - zero, out=q)
        codes[chunk].reshape(grouped)[...] = q + zero
        q *= scale
        q += shift
        q -= x
        squared_errors += np.square(q).sum(axis=0, dtype=np.float32).reshape(-1)
        squared_norms += np.square(x).sum(axis=0, dtype=np.float32).reshape(-1)
    return Groups(
        codes=codes,
        scales=scales,
        zero_points=None if zeros is None else zeros.astype(np.uint8),
        offsets=shifts,
        sums=column_sums(squared_errors, squared_norms, importance),
    )
