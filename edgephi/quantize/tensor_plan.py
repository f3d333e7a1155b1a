"""What a build does with one tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.roles import ModelTensor
from edgephi.declared.recipe import Method
from edgephi.quantize.calibrated.found_rows import FoundRows
from edgephi.quantize.scheme import Scheme


@dataclass(frozen=True)
class TensorPlan:
    """What is stored of a tensor, None for plain numbers, and by which method its codes are found.

    It goes whole from the plan of a build to the method. So a method that needs data of its own for each
    tensor has them in a field more of this class.

    `importance` float32 [columns]: the mean square of each input, by which a weight's squared error counts.
    `row_factors` float32 [rows] and `column_factors` float32 [columns]: what is stored is the checkpoint's
    tensor times both, where they are not None (`quantize.folding`); the importance is that of its new inputs.
    `found`: its codes, where they were found before (`quantize.calibrated.found_rows`).
    """

    scheme: Scheme | None
    method: Method = "search"
    importance: NDArray[np.float32] | None = field(default=None, compare=False)
    row_factors: NDArray[np.float32] | None = field(default=None, compare=False)
    column_factors: NDArray[np.float32] | None = field(default=None, compare=False)
    found: FoundRows | None = field(default=None, compare=False)

    def of_rows(self, start: int, stop: int) -> "TensorPlan":
        """The plan for some of the rows alone."""
        factors, found = self.row_factors, self.found
        return replace(
            self,
            row_factors=None if factors is None else factors[start:stop],
            found=None if found is None else found.of_rows(start),
        )

    def factored(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows of the checkpoint's tensor as they are stored.

        float32 [rows, columns], or [rows] of a vector. The plan is for these rows alone: see `of_rows`.
        """
        if self.column_factors is not None:
            rows = rows * self.column_factors
        if self.row_factors is not None:
            rows = rows * (self.row_factors[:, None] if rows.ndim == 2 else self.row_factors)
        return rows

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
