"""An adapter's small matrices for each tensor of a model, for an engine that adds their product as it runs.

A tensor times its input x becomes that plus `left @ (right @ x)`. What more than that is in an adapter, such
as DoRA's lengths or whole matrices, changes the weights themselves and can be merged only.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgephi.bundle.switched_adapter import merge_hint
from edgephi.checkpoint.adapter.low_rank import LowRankChange, read_whole
from edgephi.checkpoint.adapter.merged import StrengthenedAdapter, changes_of
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.checkpoint.roles import EXPERTS, ModelTensor, Role
from edgephi.errors import NotSupportedError

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LowRankFactors:
    """`left` float32 [rows, rank] and `right` float32 [rank, columns] of one tensor [rows, columns].

    All that multiplies their product is in `left`.
    """

    left: Floats
    right: Floats

    @property
    def rank(self) -> int:
        """The number of rows that go between the two."""
        return len(self.right)

    def scaled(self, rows: Floats | None, columns: Floats | None) -> "LowRankFactors":
        """Those of the tensor times `rows` [rows] and `columns` [columns], where they are not None."""
        left = self.left if rows is None else self.left * rows[:, None]
        right = self.right if columns is None else self.right * columns
        return LowRankFactors(left, right)

    def balanced(self) -> "LowRankFactors":
        """The same product of two whose largest numbers are alike, by a power of two: neither leaves float16.

        Some train one of the two to be tiny and the other huge.
        """
        largest, other = np.abs(self.left).max(initial=0), np.abs(self.right).max(initial=0)
        if not largest or not other:
            return self
        power = round((math.log2(other) - math.log2(largest)) / 2)
        return LowRankFactors(np.ldexp(self.left, power), np.ldexp(self.right, -power))


AdapterFactors = Mapping[ModelTensor, LowRankFactors]
"""The matrices of an adapter by the tensors that they are about; other tensors stay as they are."""


def low_rank_factors(
    checkpoint: Checkpoint, adapter: StrengthenedAdapter
) -> dict[ModelTensor, LowRankFactors]:
    """The matrices of an adapter for the tensors of the checkpoint's model.

    Adapters for parts of a tensor, such as query and key, become one with as many ranks as they have
    together. Raises as `merged` does, and NotSupportedError for what can be merged only.
    """
    of_tensor: dict[ModelTensor, list[LowRankChange]] = {}
    for module, (tensor, change) in changes_of(checkpoint, adapter).items():
        if change.magnitude is not None:
            raise _merge_only(adapter, module, "DoRA's magnitudes")
        if change.transposed:
            raise _merge_only(adapter, module, "a change of the embedding")
        if tensor.role in EXPERTS or tensor.role is Role.ROUTER:
            raise _merge_only(adapter, module, "a change of a mixture of experts")
        of_tensor.setdefault(tensor, []).append(change)
    shapes = checkpoint.architecture.tensor_shapes()
    return {tensor: _together(changes, shapes[tensor][0]) for tensor, changes in of_tensor.items()}


def _together(changes: list[LowRankChange], rows: int) -> LowRankFactors:
    """All changes of one tensor as one: `left` has each one's rows in its own ranks' columns."""
    rights = [read_whole(change.right) for change in changes]
    left = np.zeros((rows, sum(len(right) for right in rights)), np.float32)
    rank = 0
    for change, right in zip(changes, rights, strict=True):
        own = read_whole(change.left)
        left[change.rows.start : change.rows.stop : change.rows.step, rank : rank + len(right)] = (
            np.float32(change.factor) * own[change.own.start : change.own.stop : change.own.step]
        )
        rank += len(right)
    return LowRankFactors(left, np.concatenate(rights))


def _merge_only(adapter: StrengthenedAdapter, module: str, found: str) -> NotSupportedError:
    return NotSupportedError(
        f"{adapter.located.id}: {module}: expected matrices that can be switched on and off, found {found}",
        hint=merge_hint(),
    )
