"""Codes of the method "calibrated": scales as "weighted" finds them, then codes that make up for each other.

Scales are searched with each column's own error in mind only, and then stay. So this serves every way of
storing them: of all that a group stores, the codes need to know the line alone on which its weights lie.
"""

import importlib
from dataclasses import replace
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from edgephi.quantize.calibrated import error_feedback
from edgephi.quantize.calibrated.error_feedback import Feedback
from edgephi.quantize.groups import Groups, error_sums, restored
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan

Floats = NDArray[np.float32]

# Compiling takes as long as NumPy takes for so many weights.
_WORTH_COMPILING = 1 << 23


class CalibratedCodes:
    """Finds codes for blocks of rows; keeps scratch memory, so use one a thread."""

    def __init__(self, compile_after: int = _WORTH_COMPILING) -> None:
        self._quantizer = Quantizer()
        self._uncompiled_weights = compile_after
        self._codes: ModuleType = error_feedback

    def quantize(self, weights: Floats, plan: TensorPlan, feedback: Feedback) -> Groups:
        """Quantise float32 [rows, columns]; what follows from the matrix's inputs is `feedback`.

        Raises NotFiniteError as `Quantizer.quantize` does.
        """
        scheme = plan.quantised
        groups = self._quantizer.quantize(weights, plan)
        codes = self._feeding_back(weights.size).feedback_codes(
            weights, *lines_of(groups, scheme), feedback, scheme.levels
        )
        groups = replace(groups, codes=codes)
        return replace(groups, sums=error_sums(weights, restored(groups, scheme), plan.importance))

    def _feeding_back(self, weights: int) -> ModuleType:
        """NumPy for the first so many weights, then what is compiled where Numba is installed."""
        self._uncompiled_weights -= weights
        if self._uncompiled_weights < 0 and self._codes is error_feedback:
            try:
                self._codes = importlib.import_module("edgephi.quantize.calibrated.compiled_error_feedback")
            except ImportError:
                self._uncompiled_weights = 1 << 62
        return self._codes


def lines_of(groups: Groups, scheme: Scheme) -> tuple[Floats, Floats]:
    """Scale and offset of each group, float32 [rows, groups]: weight = code * scale + offset."""
    rows, columns = groups.codes.shape
    # However a scheme stores a line, the weights of two of its codes say which it is.
    at_zero, at_one = (
        restored(replace(groups, codes=np.full((rows, columns // scheme.group_size), code, np.uint8)), scheme)
        for code in (0, 1)
    )
    return at_one - at_zero, at_zero
