"""What quantising makes of a block of rows, and the weights that these are again."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgephi.quantize.scheme import Scheme


class NotFiniteError(ValueError):
    """A block of weights holds NaN, infinity, or a value that no float16 scale can reach."""


@dataclass(frozen=True)
class ErrorSums:
    """Sums over weights of (weight - original)**2 and original**2, plain and weighted.

    Weighted, each counts as often as the importance of its column says (`TensorPlan.importance`); without an
    importance both are the same.
    """

    squared_error: float = 0.0
    squared_norm: float = 0.0
    weighted_squared_error: float = 0.0
    weighted_squared_norm: float = 0.0

    def __add__(self, other: "ErrorSums") -> "ErrorSums":
        """The sums over both."""
        return ErrorSums(
            self.squared_error + other.squared_error,
            self.squared_norm + other.squared_norm,
            self.weighted_squared_error + other.weighted_squared_error,
            self.weighted_squared_norm + other.weighted_squared_norm,
        )


@dataclass(frozen=True)
class Groups:
    """A block of quantised rows: weight = (codes - zero_points) * scales + offsets, all but codes a group.

    codes: uint8 [rows, columns] · scales: float16 [rows, columns // group_size] (may be negative), or float32
    of the same shape or [rows, 1] (`quantize.row_scales`)
    zero_points: uint8 [rows, columns // group_size], None when all are the scheme's middle
    offsets: float16 [rows, columns // group_size], None when there are none; then no zero points either
    sums: the error of the block
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16] | NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None
    sums: ErrorSums
    offsets: NDArray[np.float16] | None = None


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


def restored(groups: Groups, scheme: Scheme) -> NDArray[np.float32]:
    """The weights [rows, columns] that groups of a scheme are."""
    if groups.offsets is None:
        zero_points = scheme.middle if groups.zero_points is None else groups.zero_points
        return dequantize(groups.codes, groups.scales, zero_points)
    weights = dequantize(groups.codes, groups.scales, 0)
    offsets = groups.offsets.astype(np.float32)
    weights.reshape(*offsets.shape, -1)[...] += offsets[:, :, None]
    return weights


def error_sums(
    weights: NDArray[np.float32], restored: NDArray[np.float32], importance: NDArray[np.float32] | None
) -> ErrorSums:
    """The error of `restored` against `weights`, both float32 [rows, columns]; importance [columns]."""
    # Of each column first, so that its importance need not be multiplied with every number.
    squared_errors = np.square(restored - weights).sum(axis=0, dtype=np.float64)
    squared_norms = np.square(weights).sum(axis=0, dtype=np.float64)
    return column_sums(squared_errors, squared_norms, importance)


def column_sums(
    squared_errors: NDArray[np.float64],
    squared_norms: NDArray[np.float64],
    importance: NDArray[np.float32] | None,
) -> ErrorSums:
    """The sums over columns of what is known of each, all [columns]."""
    error, norm = float(squared_errors.sum()), float(squared_norms.sum())
    if importance is None:
        return ErrorSums(error, norm, error, norm)
    return ErrorSums(error, norm, float(squared_errors @ importance), float(squared_norms @ importance))
