"""The codes of plans that say where they were found."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgephi.quantize.groups import Groups, error_sums, restored
from edgephi.quantize.tensor_plan import TensorPlan


class FoundCodes:
    """Reads what was found for blocks of rows, and only measures its error."""

    def quantize(self, weights: NDArray[np.float32], plan: TensorPlan) -> Groups:
        """The codes of float32 [rows, columns]. Raises OSError when they are not there."""
        assert plan.found is not None  # noqa: S101 - for the type checker
        groups = plan.found.read(len(weights))
        return replace(groups, sums=error_sums(weights, restored(groups, plan.quantised), plan.importance))
