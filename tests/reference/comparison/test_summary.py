"""What a text's divergences come to: means, and how far off these may be."""

import dataclasses
import json

import numpy as np
import pytest
from numpy.typing import NDArray

from edgephi.reference.comparison.divergence import TokenDivergences
from edgephi.reference.comparison.summary import gain_over, standard_error, summary, text_part

TOKENS, PASSAGES = 30, 12


def made_up(seed: int, *, tokens: int = TOKENS, passages: int = PASSAGES) -> TokenDivergences:
    """Divergences whose mean differs from passage to passage, as those of texts do."""
    rng = np.random.default_rng(seed)
    level = rng.gamma(4, 0.05, passages).repeat(tokens)
    kl = rng.exponential(level)
    surprise = rng.exponential(2, kl.shape)
    surprise[tokens - 1 :: tokens] = np.nan
    return TokenDivergences(kl, kl < 0.3, surprise, surprise + kl)


NUMBERS = np.arange(PASSAGES).repeat(TOKENS)


def error(values: NDArray[np.float64], numbers: NDArray[np.int64] = NUMBERS) -> float:
    found = standard_error(values, numbers)
    assert found is not None
    return found


class TestStandardError:
    def test_of_passages_of_one_length_is_that_of_their_means(self) -> None:
        kl = made_up(0).kl
        means = kl.reshape(PASSAGES, TOKENS).mean(axis=1)
        assert standard_error(kl, NUMBERS) == pytest.approx(means.std(ddof=1) / PASSAGES**0.5)

    def test_is_what_other_texts_differ_by(self) -> None:
        """Drawn again and again, passages of all lengths: their means spread as one draw has foretold."""
        lengths = np.random.default_rng(1).integers(10, 90, 40)
        numbers = np.arange(40).repeat(lengths)
        means, errors, naive = [], [], []
        for seed in range(400):
            rng = np.random.default_rng(seed)
            kl = rng.exponential(rng.gamma(4, 0.05, 40).repeat(lengths))
            means.append(kl.mean())
            errors.append(error(kl, numbers))
            naive.append(kl.std() / len(kl) ** 0.5)
        assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)
        assert np.mean(naive) < 0.6 * np.std(means)  # as if all tokens were independent

    def test_of_a_single_passage_nobody_knows(self) -> None:
        assert standard_error(np.ones(5), np.full(5, 7)) is None

    def test_passages_may_have_any_numbers(self) -> None:
        kl = made_up(0).kl
        assert standard_error(kl, NUMBERS * 100 + 3) == pytest.approx(standard_error(kl, NUMBERS))


def test_means_and_quantiles() -> None:
    found = made_up(2)
    said = summary(found, NUMBERS)
    assert said.kl_mean == pytest.approx(found.kl.mean(), rel=5e-3)
    assert said.kl_median == pytest.approx(np.median(found.kl), rel=5e-3)
    assert said.kl_p90 == pytest.approx(np.percentile(found.kl, 90), rel=5e-3)
    assert said.kl_p99 == pytest.approx(np.percentile(found.kl, 99), rel=5e-3)
    assert said.kl_max == pytest.approx(found.kl.max(), rel=5e-3)
    assert said.top1 == pytest.approx(found.same_top.mean(), abs=5e-5)
    known = ~np.isnan(found.surprise_from)
    assert known.sum() == (TOKENS - 1) * PASSAGES
    assert said.perplexity_from == pytest.approx(np.exp(found.surprise_from[known].mean()), rel=5e-3)
    assert said.perplexity_ratio == pytest.approx(np.exp(found.kl[known].mean()), rel=1e-2)


def test_numbers_have_three_digits_so_that_they_are_the_same_each_time() -> None:
    found = made_up(3)
    off = TokenDivergences(found.kl * (1 + 1e-9), found.same_top, found.surprise_from, found.surprise_to)
    assert summary(found, NUMBERS) == summary(off, NUMBERS)


def test_perplexity_stays_a_number_that_json_has() -> None:
    found = TokenDivergences(np.zeros(2), np.ones(2, bool), np.full(2, 1e30), np.full(2, 1e30))
    said = summary(found, np.array([0, 1]))
    assert np.isfinite(json.loads(json.dumps(said.perplexity_from)))


def test_a_part_is_the_mean_of_its_tokens() -> None:
    found = made_up(4)
    of_some = NUMBERS < 3
    said = text_part(found, of_some)
    assert said.tokens == 3 * TOKENS
    assert said.kl_mean == pytest.approx(found.kl[: 3 * TOKENS].mean(), rel=5e-3)
    assert said.top1 == pytest.approx(found.same_top[: 3 * TOKENS].mean(), abs=5e-5)


def test_a_paired_difference_is_far_surer_than_either_mean() -> None:
    rounding = made_up(5)
    ours = dataclasses.replace(rounding, kl=0.9 * rounding.kl)
    said = gain_over(rounding, ours, NUMBERS)
    assert said.kl_mean == pytest.approx(rounding.kl.mean(), rel=5e-3)
    assert said.gain == pytest.approx(0.1 * rounding.kl.mean(), rel=5e-3)
    assert said.gain_standard_error == pytest.approx(0.1 * error(rounding.kl), rel=5e-3)
    assert gain_over(ours, rounding, NUMBERS).gain == -said.gain
