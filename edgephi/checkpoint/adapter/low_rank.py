"""What LoRA and DoRA add to rows of a tensor that a checkpoint stores.

LoRA (https://arxiv.org/abs/2106.09685) adds `factor * B @ A`, DoRA (https://arxiv.org/abs/2402.09353) then
gives each row the length that it has learned. Both are about rows by themselves, so a block of rows is
changed as it is read, and nothing but the block and the small matrices is in memory.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgephi.checkpoint.weights.safetensors import TensorEntry, read_tensor_rows
from edgephi.errors import BadCheckpointError

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LowRankChange:
    """A change of the rows `rows` of a stored tensor, one for one by the rows `own` of the adapter's product.

    `left` is [rows, rank] and `right` [rank, columns]; in an embedding's change both are stored the other way
    round. `magnitude` [rows] are the lengths that DoRA gives rows.
    """

    rows: range
    own: range
    left: TensorEntry
    right: TensorEntry
    factor: float
    magnitude: TensorEntry | None = None
    transposed: bool = False

    def apply(self, values: Rows, rows: range) -> None:
        """Change `values`, float32 [rows, columns], which are the rows `rows` of the stored tensor, in place.

        Raises BadCheckpointError when the adapter's file has changed, and when a weight becomes infinite or
        none.
        """
        into, own = self._met(rows)
        if not into.size:
            return
        if self.transposed:
            left, right = read_whole(self.left).T[own], read_whole(self.right).T
        else:
            first = int(own.min())
            left = read_tensor_rows(self.left, range(first, int(own.max()) + 1))[own - first]
            right = read_whole(self.right)
        with np.errstate(all="ignore"):  # what comes of it is looked at
            changed = values[into] + np.float32(self.factor) * (left @ right)
            if self.magnitude is not None:
                lengths = np.linalg.norm(changed, axis=1)
                changed *= (read_whole(self.magnitude).reshape(-1)[own] / lengths)[:, None]
        # Where the checkpoint's own are not finite, whoever quantises them says so.
        if not np.isfinite(changed).all() and np.isfinite(values[into]).all():
            raise BadCheckpointError(
                f"{self.left.name}: expected finite weights after this change, found NaN or infinity",
                hint="the adapter is of a diverged run or too strong: give another, or a smaller @FACTOR",
            )
        values[into] = changed

    def _met(self, rows: range) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Which of the places of `rows` are changed, and by which rows of the product."""
        ahead = np.arange(rows.start, rows.stop, rows.step) - self.rows.start
        number, between = np.divmod(ahead, self.rows.step)
        into = np.flatnonzero((between == 0) & (number >= 0) & (number < len(self.rows)))
        return into, self.own.start + number[into] * self.own.step


class Change(Protocol):
    """What is changed of a stored tensor as its rows are read."""

    def apply(self, values: Rows, rows: range) -> None:
        """Change `values`, float32 [rows, columns], in place: the rows `rows` of the stored tensor."""


Changes = Mapping[str, tuple[Change, ...]]
"""What is changed of stored tensors, by their names, in the order in which it is done."""


def changed(values: Rows, rows: range, changes: Iterable[Change]) -> Rows:
    """The rows `rows` of a stored tensor, float32 [rows, columns], after all changes in their order."""
    for change in changes:
        change.apply(values, rows)
    return values


def read_whole(entry: TensorEntry) -> Rows:
    """All of a small tensor, float32 of its shape."""
    return read_tensor_rows(entry, range(entry.shape[0]))
