"""Codes with a scale of its own for each group: the one that spans it, or the best of a search.

The scale of a group decides everything: given the scale, rounding to the nearest code is best; given the
codes s (already minus the zero point), the scale with the least squared error is <x, s> / <s, s>, and the
squared error is then <x, x> - <x, s>**2 / <s, s>. So a search only has to compare <x, s>**2 / <s, s>
between candidates. llama.cpp's `make_qx_quants` uses the same identity with the same aim.

Candidates are multiples of the scale that spans the group. Working on x in units of that scale makes the
multipliers plain numbers, the same for all groups, so that every pass is one NumPy call over many groups: as
many as stay in a core's own cache, since a pass does little with each number.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgephi.quantize.groups import ErrorSums, Groups, NotFiniteError, error_sums, restored
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan

# Multiples of the spanning inverse scale, for symmetric groups and for those with a zero point: of all sets
# of four and of five the ones with the least squared error over normal and heavy-tailed (Student t, 4 degrees
# of freedom) groups of 32 and 128 weights. Clipping the largest weight a little pays for a finer step. With
# one refinement they come within 0.9 % and 0.5 % of the error of an exhaustive search, where round-to-nearest
# is 5 to 12 % above it; each multiple takes a tenth of the time. One is 1, so that no group comes out worse
# than with round-to-nearest.
_CANDIDATES = {
    True: np.array([0.9, 1.0, 1.07, 1.15], dtype=np.float32).reshape(-1, 1, 1),
    False: np.array([0.88, 0.95, 1.0, 1.05, 1.11], dtype=np.float32).reshape(-1, 1, 1),
}
# Weights whose numbers and scratch memory lie in a core's own cache together.
_CHUNK_WEIGHTS = 1 << 17
_FLOAT16_MAX = float(np.finfo(np.float16).max)
# Below this float16 is too coarse to hold what the search finds: rounding to nearest is better there.
_SMALLEST_SEARCHED = 2 * float(np.finfo(np.float16).smallest_normal)
_SMALLEST = np.finfo(np.float32).smallest_normal


Bound = float | NDArray[np.float32]
Bounds = tuple[Bound, Bound]
"""The lowest and the highest code less the zero point: the same for all groups, or [groups, 1]."""


class FreeScales:
    """Quantises blocks of rows; keeps its scratch memory, so use one a thread."""

    def __init__(self) -> None:
        self._scratch = np.empty((2, _CHUNK_WEIGHTS), dtype=np.float32)

    def quantize(self, weights: NDArray[np.float32], plan: TensorPlan) -> Groups:
        """Quantise float32 [rows, columns]; columns must be a multiple of the group size.

        Raises NotFiniteError when a weight is NaN, infinite or too large for a float16 scale.
        """
        scheme, searched = plan.quantised, plan.method == "search" and plan.quantised.bits < 8
        rows, columns = weights.shape
        size = scheme.group_size
        x = weights.reshape(-1, size)  # [groups, size]
        codes = np.empty(x.shape, dtype=np.uint8)
        scales = np.empty(len(x), dtype=np.float16)
        zero_points = None if scheme.symmetric else np.empty(len(x), dtype=np.uint8)
        squared_error = squared_norm = 0.0
        step = _CHUNK_WEIGHTS // size
        for start in range(0, len(x), step):
            chunk = slice(start, start + step)
            zeros = None if zero_points is None else zero_points[chunk]
            error, norm = self._quantize_chunk(
                x[chunk], scheme, codes[chunk], scales[chunk], zeros, searched=searched
            )
            squared_error += error
            squared_norm += norm
        squared_error = max(0.0, squared_error)
        grouped = (rows, columns // size)
        groups = Groups(
            codes=codes.reshape(rows, columns),
            scales=scales.reshape(grouped),
            zero_points=None if zero_points is None else zero_points.reshape(grouped),
            sums=ErrorSums(squared_error, squared_norm, squared_error, squared_norm),
        )
        if plan.importance is None:
            return groups
        return replace(groups, sums=error_sums(weights, restored(groups, scheme), plan.importance))

    def _quantize_chunk(
        self,
        x: NDArray[np.float32],
        scheme: Scheme,
        codes: NDArray[np.uint8],
        scales: NDArray[np.float16],
        zero_points: NDArray[np.uint8] | None,
        *,
        searched: bool,
    ) -> tuple[float, float]:
        """Fill `codes` [groups, size], `scales` and `zero_points` [groups] for x [groups, size].

        Returns the sums of (weight - original)**2 and original**2.
        """
        y, s = (buffer[: x.size].reshape(x.shape) for buffer in self._scratch)
        low, high = _extremes(x, self._scratch[0])  # [groups]
        if not (np.isfinite(high).all() and np.isfinite(low).all()):
            raise NotFiniteError("NaN or infinity")
        bounds: Bounds
        if zero_points is None:
            # The larger end of the group lies on the lowest code, because there is one more below zero.
            peak = np.where(high > -low, high, low)
            unit = peak * np.float32(-1 / scheme.middle)
            bounds = -scheme.middle, scheme.middle - 1
        else:
            high, low = np.maximum(high, 0), np.minimum(low, 0)
            unit = (high - low) * np.float32(1 / (scheme.levels - 1))
            zeros = np.rint(np.divide(-low, unit, out=np.zeros_like(unit), where=unit != 0))
            zero_points[:] = zeros
            bounds = -zeros[:, None], scheme.levels - 1 - zeros[:, None]
        _check_range(unit)

        small = np.abs(unit) < _SMALLEST_SEARCHED
        if searched:
            inverse = np.divide(1, unit, out=np.zeros_like(unit), where=~small)
            np.multiply(x, inverse[:, None], out=y)
            _search(y, s, bounds, _CANDIDATES[scheme.symmetric])
            if small.any():
                own = tuple(np.asarray(bound)[small] if np.ndim(bound) else bound for bound in bounds)
                nearest = np.empty_like(x[small])
                _round_to_nearest(x[small], unit[small].astype(np.float16), (own[0], own[1]), out=nearest)
                s[small] = nearest
        else:
            _round_to_nearest(x, unit.astype(np.float16), bounds, out=s)

        along, length, squared_norm = np.vecdot(x, s), np.vecdot(s, s), np.vecdot(x, x)
        if searched:
            np.divide(along, length, out=unit, where=~small & (length > 0))
            _check_range(unit)
        scales[:] = unit
        scale = scales.astype(np.float32)
        squared_error = squared_norm - 2 * scale * along + scale * scale * length
        shift = np.float32(scheme.middle) if zero_points is None else zero_points[:, None]
        np.add(s, shift, out=codes, casting="unsafe")
        return float(squared_error.sum(dtype=np.float64)), float(squared_norm.sum(dtype=np.float64))


def _extremes(
    x: NDArray[np.float32], scratch: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The least and the largest of each group of x [groups, size]: two arrays [groups].

    By way of a transposed copy in `scratch`: a group is too short for NumPy to reduce along it quickly, and
    even with the copy this takes a fifth of the time.
    """
    across = scratch[: x.size].reshape(x.shape[::-1])  # [size, groups]
    np.copyto(across, x.T)
    return across.min(axis=0), across.max(axis=0)


def _search(
    y: NDArray[np.float32], s: NDArray[np.float32], bounds: Bounds, candidates: NDArray[np.float32]
) -> None:
    """Leave the best codes of y [groups, size] in `s`; y is in units of the scale that spans its group.

    `candidates` [candidates, 1, 1] are inverse scales to try.
    """
    # The products of the codes under each candidate with y and with themselves.
    along, length = np.empty((2, len(candidates), len(y)), dtype=np.float32)  # [candidates, groups] each
    for i, inverse_scale in enumerate(candidates):
        np.multiply(y, inverse_scale, out=s)
        _round(s, bounds)
        np.vecdot(y, s, out=along[i])
        np.vecdot(s, s, out=length[i])
    # Codes that are all zero have a product of zero with anything.
    np.maximum(along, _SMALLEST, out=along)
    fitting = length / along  # the inverse scale that suits the codes best
    along *= along
    along /= np.maximum(length, np.float32(1))  # what the codes take away from the squared error
    fitting *= along == along.max(axis=0)
    # One step of alternating minimisation: to round again with the scale that suits the best codes leaves no
    # weight farther from its code than it was.
    np.multiply(y, fitting.max(axis=0)[:, None], out=s)
    _round(s, bounds)


def _check_range(scales: NDArray[np.float32]) -> None:
    """Raise NotFiniteError when float16 cannot hold so large a scale."""
    largest = np.abs(scales).max(initial=0)
    if not largest <= _FLOAT16_MAX:
        raise NotFiniteError(f"a group whose scale {largest:.3g} is past float16's range")


def _round_to_nearest(
    x: NDArray[np.float32],
    scales: NDArray[np.float16],
    bounds: Bounds,
    *,
    out: NDArray[np.float32],
) -> None:
    """The codes of x [groups, size] under the float16 scales that the engine will multiply by."""
    exact = scales.astype(np.float32)
    # Where float16 cannot hold so small a scale, the group becomes zero.
    inverse = np.divide(1, exact, out=np.zeros_like(exact), where=exact != 0)
    np.multiply(x, inverse[:, None], out=out)
    _round(out, bounds)


def _round(s: NDArray[np.float32], bounds: Bounds) -> None:
    """Round in place to the nearest integer within the bounds."""
    np.rint(s, out=s)
    np.clip(s, *bounds, out=s)
