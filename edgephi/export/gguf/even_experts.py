"""Experts that each count once: as near to SparseMixer as llama.cpp comes.

SparseMixer weighs a token's two experts with nearly 1 each, and with less where the scores of others lie
close to theirs. llama.cpp takes a softmax over all scores, chooses by that, and divides the two by their sum.
With the router's scores so small that the softmax is flat, each has a half; with outputs twice as large, a
whole. Both factors are powers of two, which change no code and are undone exactly.

Smaller scores would be flatter, but float32 must still tell the shares of two experts apart, to choose by.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.adapter.low_rank import Change, Changes
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.checkpoint.roles import Role

FACTORS = {Role.ROUTER: 2.0**-10, Role.EXPERTS_DOWN: 2.0}
"""What the tensors of these roles are multiplied by in a file."""


@dataclass(frozen=True)
class Multiplied:
    """All numbers of a tensor times one."""

    factor: float

    def apply(self, values: NDArray[np.float32], rows: range) -> None:  # noqa: ARG002 - all of them alike
        """See `Change`."""
        values *= np.float32(self.factor)


def evened(checkpoint: Checkpoint, changes: Changes) -> Changes:
    """What is changed of a checkpoint's tensors, after `changes`."""
    found: dict[str, tuple[Change, ...]] = dict(changes)
    for tensor, sources in checkpoint.sources.items():
        for source in sources if tensor.role in FACTORS else ():
            found[source.tensor] = (*found.get(source.tensor, ()), Multiplied(FACTORS[tensor.role]))
    return found
