"""Layer norms for an engine that has none but RMSNorm: nothing that it norms has a mean.

LayerNorm(x) is RMSNorm(x - mean(x)), but for weight and bias, which come after both. What is normed is the
sum of an embedding's row and of all that attention and experts add to it. So each row of the embedding is
stored less its mean, and each column of the matrices that add less its own, as are their biases: the sum
never has a mean then, and the model is the same one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.adapter.low_rank import Change, Changes
from edgephi.checkpoint.checkpoint import Checkpoint, read_rows
from edgephi.checkpoint.roles import EMBEDDING, ModelTensor, Role
from edgephi.export.stream.reads import BLOCK_WEIGHTS
from edgephi.quantize.tensor_plan import TensorPlans
from edgephi.steps import Step

_ADDING = (Role.ATTENTION_OUTPUT, Role.ATTENTION_OUTPUT_BIAS, Role.EXPERTS_DOWN)


class LessRowMeans:
    """Every row less its mean."""

    def apply(self, values: NDArray[np.float32], rows: range) -> None:  # noqa: ARG002 - each by itself
        """See `Change`."""
        values -= values.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)


@dataclass(frozen=True)
class LessColumnMeans:
    """Every column of a matrix less its mean, of which there are [columns]; a vector is one column."""

    means: NDArray[np.float32]

    def apply(self, values: NDArray[np.float32], rows: range) -> None:  # noqa: ARG002 - all of them alike
        """See `Change`."""
        values -= self.means


def centred(checkpoint: Checkpoint, step: Step) -> Changes:
    """What is changed of a checkpoint's tensors, after what is changed of them already.

    Reads once what attention and experts add with, a block of rows at a time; it is a `step` in bytes.
    """
    found: dict[str, tuple[Change, ...]] = dict(checkpoint.changes)
    adding = [tensor for tensor in checkpoint.sources if tensor.role in _ADDING]
    names = {source.tensor for tensor in adding for source in checkpoint.sources[tensor]}
    with step("centre", sum(checkpoint.tensors[name].size for name in names)) as done:
        for tensor in adding:
            for name, means in _column_means(checkpoint, tensor):
                found[name] = (*found.get(name, ()), LessColumnMeans(means))
                done(checkpoint.tensors[name].size)
    for source in checkpoint.sources[EMBEDDING]:
        found[source.tensor] = (*found.get(source.tensor, ()), LessRowMeans())
    return found


def uncalibrated(plans: TensorPlans) -> TensorPlans:
    """The plans without codes that were found for what is changed here: those were for other numbers."""
    return {
        tensor: replace(plan, found=None) if tensor.role in (*_ADDING, Role.EMBEDDING) else plan
        for tensor, plan in plans.items()
    }


def _column_means(checkpoint: Checkpoint, tensor: ModelTensor) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The means of each of the stored tensors that a tensor of the model is made of, each a whole matrix."""
    for source in checkpoint.sources[tensor]:
        shape = checkpoint.tensors[source.tensor].shape
        columns = shape[1] if len(shape) > 1 else 1
        sums, size = np.zeros(columns), max(1, BLOCK_WEIGHTS // columns)
        for start in range(source.into.start, source.into.stop, size):
            rows = read_rows(checkpoint, tensor, start, min(start + size, source.into.stop))
            sums += rows.reshape(-1, columns).sum(axis=0, dtype=np.float64)
        yield source.tensor, (sums / len(source.into)).astype(np.float32)
