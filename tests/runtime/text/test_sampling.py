"""Our sampler, held against transformers' logits warpers and plain sorting."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from edgephi.errors import BadBundleError
from edgephi.runtime.text.sampling import (
    Sampler,
    Sampling,
    best,
    candidates,
    log_probabilities,
    most_likely,
)
from tests.property_profile import examples

Logits = NDArray[np.float32]


def random_logits(size: int, seed: int) -> Logits:
    """Logits like those of a model: a few stand out. No two are equal."""
    spread = np.linspace(-15, 15, size) ** 3 / 200
    logits = np.random.default_rng(seed).permutation(spread).astype(np.float32)
    assert len(np.unique(logits)) == size
    return logits


def expected_shares(logits: Logits, sampling: Sampling) -> NDArray[np.float64]:
    """The probability of each token, as transformers computes it."""
    warpers = LogitsProcessorList()
    warpers.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    scores = warpers(torch.zeros((1, 1), dtype=torch.long), torch.from_numpy(logits.astype(np.float64))[None])
    shares: NDArray[np.float64] = scores.softmax(-1)[0].numpy()
    return shares


def shares_of(logits: Logits, sampling: Sampling) -> NDArray[np.float64]:
    """The probability of each token, as we compute it."""
    tokens, weights = candidates(logits, sampling)
    shares = np.zeros(len(logits))
    shares[tokens] = weights / weights.sum(dtype=np.float64)
    return shares


@given(
    size=st.sampled_from([5, 64, 700, 5000]),
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.1, 0.7, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 2, 7, 50, 6000]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.123, 1e-6]),
    min_p=st.sampled_from([0.0, 0.0, 0.01, 0.3, 1.0]),
)
@settings(max_examples=examples(200))
def test_the_shares_are_those_of_transformers(
    size: int, seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = random_logits(size, seed)
    sampling = Sampling(temperature, min(top_k, size), top_p, min_p)
    np.testing.assert_allclose(
        shares_of(logits, sampling), expected_shares(logits, sampling), rtol=1e-4, atol=1e-9
    )


@pytest.mark.parametrize(
    "sampling", [Sampling(1.0), Sampling(0.8, 5), Sampling(1.5, 0, 0.7), Sampling(2.0, 50, 0.9)], ids=repr
)
def test_tokens_are_drawn_as_often_as_their_shares_say(sampling: Sampling) -> None:
    logits = random_logits(1500, seed=1)
    sampler, draws = Sampler(sampling, seed=2), 6000
    counted = np.bincount([sampler.choose(logits) for _ in range(draws)], minlength=len(logits))
    expected = expected_shares(logits, sampling) * draws
    assert not counted[expected == 0].any()
    often = expected >= 5  # where a chi-square is one; all the others make up one more bin
    rare = counted[~often].sum(), expected[~often].sum()
    bins = [*zip(counted[often], expected[often], strict=True), rare]
    chi_square = sum((found - wanted) ** 2 / wanted for found, wanted in bins if wanted > 0)
    freedom = len(bins) - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom) + 10


def test_a_seed_draws_the_same_again_and_none_does_not() -> None:
    logits = random_logits(32064, seed=3)

    def draw(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(5.0), seed)
        return [sampler.choose(logits) for _ in range(16)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    assert draw(None) != draw(None)


def test_a_seed_means_the_same_tokens_in_every_release() -> None:
    logits = np.zeros(1000, np.float32)
    sampler = Sampler(Sampling(1.0), seed=1)
    # What Python's own generator gives for this seed, times the number of tokens.
    assert [sampler.choose(logits) for _ in range(5)] == [134, 847, 763, 255, 495]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1e-40), Sampling(5e-324), Sampling(1.0, 1)])
def test_what_leaves_one_token_takes_the_most_likely(sampling: Sampling) -> None:
    for seed in range(20):
        logits = random_logits(2000, seed)
        assert Sampler(sampling, seed).choose(logits) == int(logits.argmax())


@given(seed=st.integers(0, 1000), allowed=st.integers(1, 40), top_k=st.sampled_from([0, 3, 50]))
@settings(max_examples=examples(100))
def test_what_is_masked_is_never_drawn(seed: int, allowed: int, top_k: int) -> None:
    random = np.random.default_rng(seed)
    may = random.choice(5000, allowed, replace=False)
    logits = np.full(5000, -np.inf, np.float32)
    logits[may] = random.normal(size=allowed) * 100
    for sampling in (Sampling(), Sampling(100.0, top_k), Sampling(1.0, top_k, 0.5), Sampling(0.01, top_k)):
        assert Sampler(sampling, seed).choose(logits) in may


@given(
    size=st.sampled_from([1, 63, 64, 65, 200, 5000, 32064]),
    count=st.sampled_from([1, 5, 20, 100, 40000]),
    seed=st.integers(0, 1000),
    distinct=st.sampled_from([2, 30, 100000]),
)
@settings(max_examples=examples(200))
def test_the_most_likely_are_those_of_a_sorted_list(size: int, count: int, seed: int, distinct: int) -> None:
    logits = np.random.default_rng(seed).integers(-distinct, distinct, size).astype(np.float32)
    expected = sorted(range(size), key=lambda token: (-logits[token], token))[:count]
    assert most_likely(logits, count).tolist() == expected


def test_log_probabilities_are_a_log_softmax() -> None:
    logits = random_logits(32064, seed=4) * 5
    tokens = np.array([0, 17, 32063, int(logits.argmax())])
    expected = torch.from_numpy(logits.astype(np.float64)).log_softmax(-1).numpy()[tokens]
    np.testing.assert_allclose(log_probabilities(logits, tokens), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_logits_that_are_no_numbers(broken: float) -> None:
    logits = random_logits(700, seed=5)
    logits[300] = broken
    for sampling in (Sampling(), Sampling(1.0), Sampling(1.0, 50), Sampling(1.0, 50, 0.9)):
        with pytest.raises(BadBundleError, match=r"expected logits from the engine, found (nan|inf)"):
            Sampler(sampling, 1).choose(logits)
    with pytest.raises(BadBundleError):
        log_probabilities(logits, np.array([0]))


def test_nothing_may_come_next() -> None:
    with pytest.raises(BadBundleError, match="found none"):
        best(np.full(100, -np.inf, np.float32))


def test_the_largest_vocabulary_takes_less_than_a_millisecond() -> None:
    logits = random_logits(100_000, seed=6)
    logits = np.concatenate([logits, logits[::-1] - 0.25, logits[:64] - 1])  # Phi-4-mini has 200,064
    for sampling in (Sampling(), Sampling(0.7, 50), Sampling(0.7, 50, 0.9)):
        sampler, seconds = Sampler(sampling, 1), []
        for _ in range(20):
            start = time.perf_counter()
            sampler.choose(logits)
            seconds.append(time.perf_counter() - start)
        assert min(seconds) < 1e-3  # the machine may be busy: the best of them counts
