"""Codes of the method "calibrated": scales as "weighted" finds them, then codes that make up for each other.

Of all that a group stores, the codes need to know the line alone on which its weights lie, so this serves
every way of storing it. Where a group's scale is a number of its own it is then fitted to the codes, and the
codes to the scale again, in turns.
"""

import importlib
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from edgephi.quantize.calibrated import error_feedback, scale_fit
from edgephi.quantize.calibrated.error_feedback import Feedback
from edgephi.quantize.groups import Groups, error_sums, restored
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan

Floats = NDArray[np.float32]

# Compiling takes as long as NumPy takes for so many weights.
_WORTH_COMPILING = 1 << 23
# Of fitting the scales and finding the codes again.
_TURNS = 2
_OWN_SCALES = ("free", "offset")
# Below this float16 is too coarse to hold what is fitted.
_SMALLEST_FITTED = 2 * float(np.finfo(np.float16).smallest_normal)

_ROOM = "edgephi.quantize.calibrated"


@dataclass(frozen=True)
class _Kernels:
    """The sums over many weights, in NumPy or compiled."""

    codes: ModuleType
    scales: ModuleType


class CalibratedCodes:
    """Finds codes for blocks of rows; keeps scratch memory, so use one a thread."""

    def __init__(self, compile_after: int = _WORTH_COMPILING) -> None:
        self._quantizer = Quantizer()
        self._uncompiled_weights = compile_after
        self._kernels = _Kernels(error_feedback, scale_fit)

    def quantize(self, weights: Floats, plan: TensorPlan, feedback: Feedback) -> Groups:
        """Quantise float32 [rows, columns]; what follows from the matrix's inputs is `feedback`.

        Raises NotFiniteError as `Quantizer.quantize` does.
        """
        scheme = plan.quantised
        kernels = self._compiled_after(weights.size)

        def with_codes(groups: Groups) -> Groups:
            lines = lines_of(groups, scheme)
            return replace(
                groups, codes=kernels.codes.feedback_codes(weights, *lines, feedback, scheme.levels)
            )

        groups = with_codes(self._quantizer.quantize(weights, plan))
        if scheme.scales in _OWN_SCALES:
            for _ in range(_TURNS):
                groups = with_codes(_with_fitted_scales(weights, groups, scheme, feedback, kernels))
        return replace(groups, sums=error_sums(weights, restored(groups, scheme), plan.importance))

    def _compiled_after(self, weights: int) -> _Kernels:
        """NumPy for the first so many weights, then what is compiled where Numba is installed."""
        self._uncompiled_weights -= weights
        if self._uncompiled_weights < 0 and self._kernels.codes is error_feedback:
            try:
                self._kernels = _Kernels(
                    importlib.import_module(f"{_ROOM}.compiled_error_feedback"),
                    importlib.import_module(f"{_ROOM}.compiled_scale_fit"),
                )
            except ImportError:
                self._uncompiled_weights = 1 << 62
        return self._kernels


def _with_fitted_scales(
    weights: Floats, groups: Groups, scheme: Scheme, feedback: Feedback, kernels: _Kernels
) -> Groups:
    """The same codes with the scales, and the offsets where there are any, that suit them best."""
    size, moves = scheme.group_size, groups.offsets is not None
    offsets = np.zeros_like(groups.scales) if groups.offsets is None else groups.offsets
    zero_points: NDArray[np.uint8] | int = 0 if moves else scheme.middle
    if groups.zero_points is not None:
        zero_points = np.repeat(groups.zero_points, size, axis=1)
    numbers = groups.codes - np.asarray(zero_points, np.float32)
    old = groups.scales.astype(np.float32), offsets.astype(np.float32)
    fitted = kernels.scales.fitted_lines(weights, numbers, *old, feedback, move_offsets=moves)
    with np.errstate(over="ignore"):
        scales, offsets = (each.astype(np.float16) for each in fitted)
    held = (np.abs(scales) >= _SMALLEST_FITTED) & np.isfinite(scales) & np.isfinite(offsets)
    groups = replace(groups, scales=np.where(held, scales, groups.scales))
    return (
        groups if groups.offsets is None else replace(groups, offsets=np.where(held, offsets, groups.offsets))
    )


def lines_of(groups: Groups, scheme: Scheme) -> tuple[Floats, Floats]:
    """Scale and offset of each group, float32 [rows, groups]: weight = code * scale + offset."""
    rows, columns = groups.codes.shape
    # However a scheme stores a line, the weights of two of its codes say which it is.
    at_zero, at_one = (
        restored(replace(groups, codes=np.full((rows, columns // scheme.group_size), code, np.uint8)), scheme)
        for code in (0, 1)
    )
    return at_one - at_zero, at_zero
