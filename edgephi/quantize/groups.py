"""The quantiser: float32 weights -> integer codes, a scale a group, and the error that this made.

The scale of a group decides everything: given the scale, rounding to the nearest code is best; given the
codes s (already minus the zero point), the scale with the least squared error is <x, s> / <s, s>, and the
squared error is then <x, x> - <x, s>**2 / <s, s>. So a search only has to compare <x, s>**2 / <s, s>
between candidates. llama.cpp's `make_qx_quants` uses the same identity with the same aim.

Candidates are multiples of the scale that spans the group. Working on x in units of that scale makes the
multipliers plain numbers, the same for all groups, so that every pass is one NumPy call over a whole block.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgephi.quantize.scheme import Scheme

# The best inverse scales of normal and heavy-tailed (Student t, 4 degrees) groups of 32 to 128 weights lie
# within these multiples of the spanning one: clipping the largest weight a little pays for a finer step.
# Twelve of them and one refinement come within 0.3 % of the error of an exhaustive search. One of them is 1,
# so that no group comes out worse than with round-to-nearest.
_CANDIDATES = np.linspace(0.88, 1.32, 12, dtype=np.float32)
_FLOAT16_MAX = float(np.finfo(np.float16).max)
# Below this float16 is too coarse to hold what the search finds: rounding to nearest is better there.
_SMALLEST_SEARCHED = 2 * float(np.finfo(np.float16).smallest_normal)


class NotFiniteError(ValueError):
    """A block of weights holds NaN, infinity, or a value that no float16 scale can reach."""


@dataclass(frozen=True)
class Groups:
    """A block of quantised rows: weight = (codes - zero_points) * scales, the latter two once a group.

    codes: uint8 [rows, columns] · scales: float16 [rows, columns // group_size] (may be negative)
    zero_points: uint8 [rows, columns // group_size], None when all are the scheme's middle
    squared_error, squared_norm: sums over the block of (weight - original)**2 and original**2
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]
    zero_points: NDArray[np.uint8] | None
    squared_error: float
    squared_norm: float


class Quantizer:
    """Quantises blocks of rows under one scheme; keeps its scratch memory, so use one a thread."""

    def __init__(self, scheme: Scheme) -> None:
        self.scheme = scheme
        self._scratch = np.empty((2, 0), dtype=np.float32)

    def quantize(self, weights: NDArray[np.float32]) -> Groups:
        """Quantise float32 [rows, columns]; columns must be a multiple of the group size.

        Raises NotFiniteError when a weight is NaN, infinite or too large for a float16 scale.
        """
        rows, columns = weights.shape
        size = self.scheme.group_size
        if self._scratch.shape[1] < weights.size:
            self._scratch = np.empty((2, weights.size), dtype=np.float32)
        x = weights.reshape(-1, size)  # [groups, size]
        y, s = (buffer[: x.size].reshape(x.shape) for buffer in self._scratch)
        high, low = x.max(axis=1), x.min(axis=1)  # [groups]
        if not (np.isfinite(high).all() and np.isfinite(low).all()):
            raise NotFiniteError("NaN or infinity")
        if self.scheme.symmetric:
            # The larger end of the group lies on the lowest code, because there is one more below zero.
            peak = np.where(high > -low, high, low)
            unit = peak * np.float32(-1 / self.scheme.middle)
            zero_points = None
            bounds: tuple[float | NDArray[np.float32], float | NDArray[np.float32]]
            bounds = -self.scheme.middle, self.scheme.middle - 1
        else:
            high, low = np.maximum(high, 0), np.minimum(low, 0)
            unit = (high - low) * np.float32(1 / (self.scheme.levels - 1))
            zeros = np.rint(np.divide(-low, unit, out=np.zeros_like(unit), where=unit != 0))
            zero_points = zeros.astype(np.uint8)
            bounds = -zeros[:, None], self.scheme.levels - 1 - zeros[:, None]
        _check_range(unit)

        if self.scheme.method == "search" and self.scheme.bits == 4:
            small = np.abs(unit) < _SMALLEST_SEARCHED
            inverse = np.divide(1, unit, out=np.zeros_like(unit), where=~small)
            np.multiply(x, inverse[:, None], out=y)
            scales = self._search(y, s, bounds) * unit
            _check_range(scales)
            scales16 = scales.astype(np.float16)
            if small.any():
                own = bounds if self.scheme.symmetric else tuple(np.asarray(bound)[small] for bound in bounds)
                nearest = np.empty_like(x[small])
                _round_to_nearest(x[small], scales16[small], (own[0], own[1]), out=nearest)
                s[small] = nearest
        else:
            scales16 = unit.astype(np.float16)
            _round_to_nearest(x, scales16, bounds, out=s)

        scale = scales16.astype(np.float32)
        squared_norm = np.vecdot(x, x)
        squared_error = squared_norm - 2 * scale * np.vecdot(x, s) + scale * scale * np.vecdot(s, s)
        codes = np.empty(x.shape, dtype=np.uint8)
        shift = np.float32(self.scheme.middle) if zero_points is None else zero_points[:, None]
        np.add(s, shift, out=codes, casting="unsafe")
        grouped = (rows, columns // size)
        return Groups(
            codes=codes.reshape(rows, columns),
            scales=scales16.reshape(grouped),
            zero_points=None if zero_points is None else zero_points.reshape(grouped),
            squared_error=max(0.0, float(squared_error.sum(dtype=np.float64))),
            squared_norm=float(squared_norm.sum(dtype=np.float64)),
        )

    def _search(
        self,
        y: NDArray[np.float32],
        s: NDArray[np.float32],
        bounds: tuple[float | NDArray[np.float32], float | NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Leave the best codes of y [groups, size] in `s`; return the scales in y's units, [groups]."""
        groups = len(y)
        best_score = np.zeros(groups, dtype=np.float32)
        best_multiplier = np.ones(groups, dtype=np.float32)

        def consider(multiplier: np.float32 | NDArray[np.float32]) -> None:
            scale = multiplier if np.ndim(multiplier) == 0 else np.asarray(multiplier)[:, None]
            np.multiply(y, scale, out=s)
            _round(s, bounds)
            along, length = np.vecdot(y, s), np.vecdot(s, s)
            score = np.divide(along * along, length, out=np.zeros(groups, np.float32), where=length > 0)
            better = score > best_score
            best_score[better] = score[better]
            best_multiplier[better] = np.broadcast_to(multiplier, better.shape)[better]

        for candidate in _CANDIDATES:
            consider(candidate)
        # One step of alternating minimisation: round again with the scale that suits the best codes.
        np.multiply(y, best_multiplier[:, None], out=s)
        _round(s, bounds)
        along, length = np.vecdot(y, s), np.vecdot(s, s)
        consider(np.divide(length, along, out=np.ones_like(along), where=along > 0))
        np.multiply(y, best_multiplier[:, None], out=s)
        _round(s, bounds)
        along, length = np.vecdot(y, s), np.vecdot(s, s)
        scales: NDArray[np.float32] = np.divide(along, length, out=np.ones_like(along), where=length > 0)
        return scales


def _check_range(scales: NDArray[np.float32]) -> None:
    """Raise NotFiniteError when float16 cannot hold so large a scale."""
    largest = np.abs(scales).max(initial=0)
    if not largest <= _FLOAT16_MAX:
        raise NotFiniteError(f"a group whose scale {largest:.3g} is past float16's range")


def _round_to_nearest(
    x: NDArray[np.float32],
    scales: NDArray[np.float16],
    bounds: tuple[float | NDArray[np.float32], float | NDArray[np.float32]],
    *,
    out: NDArray[np.float32],
) -> None:
    """The codes of x [groups, size] under the float16 scales that the engine will multiply by."""
    exact = scales.astype(np.float32)
    # Where float16 cannot hold so small a scale, the group becomes zero.
    inverse = np.divide(1, exact, out=np.zeros_like(exact), where=exact != 0)
    np.multiply(x, inverse[:, None], out=out)
    _round(out, bounds)


def _round(
    s: NDArray[np.float32], bounds: tuple[float | NDArray[np.float32], float | NDArray[np.float32]]
) -> None:
    """Round in place to the nearest integer within the bounds."""
    np.rint(s, out=s)
    np.clip(s, *bounds, out=s)


def dequantize(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float16] | NDArray[np.float32],
    zero_points: NDArray[np.uint8] | int,
) -> NDArray[np.float32]:
    """Weights [rows, columns] of codes [rows, columns], scales and zero points [rows, groups]."""
    rows, columns = codes.shape
    grouped = codes.reshape(rows, scales.shape[1], -1)  # [rows, groups, size]
    zeros = zero_points if isinstance(zero_points, int) else zero_points[:, :, None]
    weights = grouped.astype(np.float32)
    weights -= np.float32(zeros) if isinstance(zeros, int) else zeros
    weights *= scales.astype(np.float32, copy=False)[:, :, None]
    return weights.reshape(rows, columns)
