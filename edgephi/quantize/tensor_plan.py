"""What a build does with one tensor."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgephi.checkpoint.roles import ModelTensor
from edgephi.declared.recipe import Method
from edgephi.quantize.scheme import Scheme


@dataclass(frozen=True)
class TensorPlan:
    """What is stored of a tensor, None for plain numbers, and by which method its codes are found.

    It goes whole from the plan of a build to the method. So a method that needs data of its own for each
    tensor (how large its inputs are, say) has them in a field more of this class.
    """

    scheme: Scheme | None
    method: Method = "search"

    @property
    def quantised(self) -> Scheme:
        """The scheme of a tensor that has one. Raises ValueError for plain numbers."""
        if self.scheme is None:
            raise ValueError("expected a tensor that is quantised, found one that stays plain numbers")
        return self.scheme


TensorPlans = Mapping[ModelTensor, TensorPlan]
"""What a build does with every tensor of a model."""


def quantised_tensors(plans: TensorPlans) -> dict[ModelTensor, Scheme]:
    """The scheme of every tensor that is quantised."""
    return {tensor: plan.scheme for tensor, plan in plans.items() if plan.scheme is not None}
