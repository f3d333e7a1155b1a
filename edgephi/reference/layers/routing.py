"""Which experts a token has, and how much each of them counts: SparseMixer at inference.

The first expert is that with the largest score m. Scores s with (m - s) / max(|s|, m) <= 2 * jitter count as
close to it, and the expert's weight is its share of a softmax over these alone; mostly it is 1. The second is
found the same way among the others, so the weights of both do not sum to 1. Of equal scores the first wins.

Source: `sparsemixer` in transformers' `modeling_phimoe.py`; arXiv:2409.12136.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Routing:
    """`experts` and `weights` [tokens, chosen]: whose answers a token gets, times what."""

    experts: NDArray[np.intp]
    weights: Floats

    def tokens_of(self, expert: int) -> tuple[NDArray[np.intp], Floats]:
        """The tokens that have this expert, and its weight for each."""
        tokens, place = np.nonzero(self.experts == expert)
        return tokens, self.weights[tokens, place]


def route(scores: Floats, *, chosen: int, jitter: float) -> Routing:
    """The experts of each token, from their scores [tokens, experts]."""
    left = scores.copy()  # without those that are chosen already: -inf
    experts, weights = [], []
    for _ in range(chosen):
        best = left.argmax(axis=1)
        experts.append(best)
        weights.append(_share_of_best(scores, left, jitter))
        left[np.arange(len(left)), best] = -np.inf
    return Routing(np.stack(experts, axis=1), np.stack(weights, axis=1))


def _share_of_best(scores: Floats, left: Floats, jitter: float) -> Floats:
    """The largest of each row's `left` in a softmax over those close to it: [tokens]."""
    largest = left.max(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is not far: it counts as close, as there
        far = (largest - scores) / np.maximum(np.abs(scores), largest) > 2 * jitter
    close = np.where(far, 0, np.exp(left - largest))
    share: Floats = 1 / close.sum(axis=1)
    return share
