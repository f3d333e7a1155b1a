"""Which experts our block of Phi-3.5-MoE chooses, and their weights: what transformers' own function says."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers.models.phimoe import modeling_phimoe

mx: Any = pytest.importorskip("mlx.core")

from edgephi.runtime.engines.mlx_lm.models.phimoe import sparsemixer  # noqa: E402 - it needs MLX

JITTER = 0.01
Scores = NDArray[np.float32]


def check(scores: Scores) -> None:
    """The experts are the same, the weights are up to rounding; computed on the CPU."""
    weights, chosen = modeling_phimoe.sparsemixer(torch.from_numpy(scores), JITTER, training=False)
    with mx.stream(mx.cpu):
        ours, found = sparsemixer(mx.array(scores), 2 * JITTER)
        np.testing.assert_array_equal(np.array(ours), chosen.numpy())
        np.testing.assert_allclose(np.array(found), weights.numpy(), rtol=1e-6)


@pytest.mark.parametrize("experts", [2, 4, 16])
def test_scores_that_lie_apart_and_near_each_other(experts: int) -> None:
    random = np.random.default_rng(experts)
    scores = random.standard_normal((2000, experts)).astype(np.float32)
    check(scores)
    check(scores * 100)
    near = scores[:, :1] * (1 + 0.02 * random.standard_normal((2000, experts)))
    check(near.astype(np.float32))  # within the band and just outside of it, of either sign


def test_equal_scores_go_to_the_first() -> None:
    random = np.random.default_rng(3)
    scores = random.integers(-2, 3, (500, 16)).astype(np.float32)  # zeros, too, whose distance is 0 / 0
    check(scores)
    check(np.zeros((1, 16), np.float32))
    with mx.stream(mx.cpu):
        chosen, weights = sparsemixer(mx.ones((1, 16)), 2 * JITTER)
        assert np.array(chosen).tolist() == [[0, 1]]
        np.testing.assert_allclose(np.array(weights), [[1 / 16, 1 / 15]], rtol=1e-6)


def test_two_experts_far_ahead_have_weights_of_nearly_one_each() -> None:
    scores = np.array([[9, 8, 0, 1, -3, 2]], np.float32)
    with mx.stream(mx.cpu):
        _, weights = sparsemixer(mx.array(scores), 2 * JITTER)
        np.testing.assert_array_equal(np.array(weights), [[1, 1]])
