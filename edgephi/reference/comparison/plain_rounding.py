"""The weights that plain rounding makes of a checkpoint's, made anew for every block that is read.

It is what any better method has to beat. Nothing of it is kept, in memory or on disk.
"""

import threading

import numpy as np

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor
from edgephi.quantize.groups import restored
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.tensor_plan import TensorPlan, TensorPlans
from edgephi.reference.forward import Floats
from edgephi.reference.weights import Weights


class RoundedWeights:
    """`weights`, each tensor rounded to nearest by its scheme in `plans`, whatever the method there.

    Raises NotFiniteError where a weight has no such code.
    """

    def __init__(self, weights: Weights, plans: TensorPlans) -> None:
        self.architecture: Architecture = weights.architecture
        self._weights = weights
        self._plans = {
            tensor: None if plan.scheme is None else TensorPlan(plan.scheme, "rtn")
            for tensor, plan in plans.items()
        }
        self._own = threading.local()  # a quantiser keeps scratch memory and serves one thread

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> Floats:
        """See `Weights`."""
        rows = self._weights.rows(tensor, start, stop)
        plan = self._plans[tensor]
        if plan is None:
            return rows
        if not hasattr(self._own, "quantizer"):
            self._own.quantizer = Quantizer()
        groups = self._own.quantizer.quantize(np.ascontiguousarray(rows), plan)
        return restored(groups, plan.quantised)
