"""What quantising makes of a block of rows, and the weights that these are again."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class NotFiniteError(ValueError):
    """A block of weights holds NaN, infinity, or a value that no float16 scale can reach."""


@dataclass(frozen=True)
class Groups:
    """A block of quantised rows: weight = (codes - zero_points) * scales, the latter two once a group.

    codes: uint8 [rows, columns] · scales: float16 [rows, columns // group_size] (may be negative), or float32
    of the same shape or [rows, 1] (`quantize.row_scales`)
    zero_points: uint8 [rows, columns // group_size], None when all are the scheme's middle
    squared_error, squared_norm: sums over the block of (weight - original)**2 and original**2
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16] | NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None
    squared_error: float
    squared_norm: float


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
