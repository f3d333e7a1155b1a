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

    In super-blocks weight = (codes - middle) * (scale * multiples), or codes * (scale * multiples) - (step *
    minimums), where scale and step are the two numbers of a super-block.

    codes: uint8 [rows, columns] · scales: float16 [rows, columns // group_size] (may be negative), or float32
    of the same shape or [rows, 1] (`quantize.row_scales`), or float16 [rows, columns // 256, 1 or 2] in
    super-blocks zero_points: uint8 [rows, columns // group_size], None when all are the scheme's middle
    offsets: float16 [rows, columns // group_size], None when there are none; then no zero points either
    multiples: uint8 [rows, columns // group_size] in super-blocks, or int8 where their groups are symmetric
    minimums: uint8 of the same shape in super-blocks whose groups are not sums: the error of the block
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16] | NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None
    sums: ErrorSums
    offsets: NDArray[np.float16] | None = None
    multiples: NDArray[np.uint8] | NDArray[np.int8] | None = None
    minimums: NDArray[np.uint8] | None = None


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


def dequantize_super_blocks(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float16] | NDArray[np.float32],
    multiples: NDArray[np.uint8] | NDArray[np.int8],
    minimums: NDArray[np.uint8] | None,
    middle: int,
) -> NDArray[np.float32]:
    """Weights [rows, columns] of what `Groups` has of super-blocks; `middle` is for those without minimums.

    Factors are multiplied in the order in which ggml multiplies them, so that the numbers are the same.
    """
    rows, columns = codes.shape
    blocks = (rows, scales.shape[1], -1)
    exact = scales.astype(np.float32)  # [rows, blocks, 1 or 2]
    scale = (multiples.reshape(blocks) * exact[:, :, :1])[..., None]  # [rows, blocks, groups, 1]
    weights = codes.reshape(*scale.shape[:-1], -1).astype(np.float32)  # [rows, blocks, groups, size]
    if minimums is None:
        weights -= np.float32(middle)
        weights *= scale
    else:
        weights *= scale
        weights -= (minimums.reshape(blocks) * exact[:, :, 1:])[..., None]
    return weights.reshape(rows, columns)


def restored(groups: Groups, scheme: Scheme) -> NDArray[np.float32]:
    """The weights [rows, columns] that groups of a scheme are."""
    if groups.multiples is not None:
        return dequantize_super_blocks(
            groups.codes, groups.scales, groups.multiples, groups.minimums, scheme.middle
        )
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
