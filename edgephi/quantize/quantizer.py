"""The front door: float32 weights -> integer codes, scales, zero points, and the error that this made.

How codes are found stands behind it, a file for each way. A new one is such a file and its lines in `_WAYS`.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgephi.declared.recipe import Method
from edgephi.quantize.calibrated.found_codes import FoundCodes
from edgephi.quantize.free_scales import FreeScales
from edgephi.quantize.groups import Groups
from edgephi.quantize.row_scales import RowScales
from edgephi.quantize.scheme import Scales
from edgephi.quantize.super_blocks import SuperBlocks
from edgephi.quantize.tensor_plan import TensorPlan
from edgephi.quantize.weighted_scales import WeightedScales


class Way(Protocol):
    """A way to find codes. It may keep scratch memory from one block to the next, and nothing else."""

    def quantize(self, weights: NDArray[np.float32], plan: TensorPlan) -> Groups:
        """What `Quantizer.quantize` promises."""


_WAYS: Mapping[tuple[Method, Scales], type[Way]] = {
    ("rtn", "free"): FreeScales,
    ("search", "free"): FreeScales,
    ("rtn", "multiples"): RowScales,
    ("search", "multiples"): RowScales,
    ("weighted", "multiples"): RowScales,
    ("weighted", "free"): WeightedScales,
    ("rtn", "offset"): WeightedScales,
    ("search", "offset"): WeightedScales,
    ("weighted", "offset"): WeightedScales,
    ("rtn", "superblocks"): SuperBlocks,
    ("search", "superblocks"): SuperBlocks,
    ("weighted", "superblocks"): SuperBlocks,
    # Of what is not found beforehand.
    ("calibrated", "free"): WeightedScales,
    ("calibrated", "multiples"): RowScales,
    ("calibrated", "offset"): WeightedScales,
    ("calibrated", "superblocks"): SuperBlocks,
}


class Quantizer:
    """Quantises blocks of rows by any plan; keeps scratch memory, so use one a thread."""

    def __init__(self) -> None:
        self._ways: dict[type[Way], Way] = {}

    def quantize(self, weights: NDArray[np.float32], plan: TensorPlan) -> Groups:
        """Quantise float32 [rows, columns]; columns must be a multiple of the group size.

        Raises NotFiniteError when a weight is NaN, infinite or too large for a float16 scale.
        """
        way = _way(plan)
        if way not in self._ways:
            self._ways[way] = way()
        return self._ways[way].quantize(weights, plan)


def _way(plan: TensorPlan) -> type[Way]:
    scheme = plan.quantised
    if plan.found is not None:
        return FoundCodes
    # With 8 bits there is nothing to gain: the scale that spans a group is as good as any.
    method = "rtn" if scheme.bits == 8 and scheme.scales == "free" else plan.method
    return _WAYS[method, scheme.scales]
