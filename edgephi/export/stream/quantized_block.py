"""One block of rows: its bytes in the checkpoint -> the bytes of each region of the artifact."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.weights.safetensors import to_float32
from edgephi.quantize.groups import ErrorSums, Groups, restored
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan

Pack = Callable[[Groups, Scheme], tuple[NDArray[np.generic], ...]]
"""Lays out a block of quantised rows: one array a region, rows in order (codes, scales, zero points, …).

A function of a module, or `functools.partial` of one: it travels to the processes that quantise.
"""


@dataclass(frozen=True)
class QuantizedBlock:
    """A block of rows as it lies in the artifact: an array for each region, and the error."""

    regions: tuple[NDArray[np.generic], ...]
    sums: ErrorSums


class BlockQuantizer:
    """Quantises and packs blocks; keeps scratch memory, so use one a thread."""

    def __init__(self) -> None:
        self._quantizer = Quantizer()

    def quantize(
        self, raw: NDArray[np.uint8], dtype: str, rows: int, plan: TensorPlan, pack: Pack
    ) -> QuantizedBlock:
        """Quantise `rows` rows, whose bytes in the checkpoint are `raw` and whose dtype there is `dtype`.

        The plan is for these rows alone, as `TensorPlan.of_rows` gives it.
        Raises NotFiniteError when a weight is NaN, infinite or too large for a float16 scale.
        """
        weights = plan.factored(to_float32(raw, dtype).reshape(rows, -1))
        groups = self._quantizer.quantize(weights, plan)
        return QuantizedBlock(pack(groups, plan.quantised), groups.sums)


def restored_rows(groups: Groups, scheme: Scheme) -> tuple[NDArray[np.float32]]:
    """A `Pack` of one region: the weights again, as whoever computes with the artifact has them."""
    return (restored(groups, scheme),)
