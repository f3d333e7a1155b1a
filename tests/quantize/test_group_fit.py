"""The least squares of a group: held against float64, and against every scale and minimum there could be."""

import numpy as np
import pytest
from numpy.typing import NDArray

from edgephi.quantize import compiled_fit
from edgephi.quantize.group_fit import GroupFit, total

Floats = NDArray[np.float32]

CANDIDATES = (
    *((multiple, end) for multiple in (0.94, 1.0, 1.06, 1.12) for end in (0.0, 1.0)),
    (0.6, 0.5),
    (0.8, 0.5),
)


@pytest.fixture
def x() -> Floats:
    """50 groups of 32 weights, [size, groups]."""
    return np.random.default_rng(0).standard_t(4, (32, 50)).astype(np.float32)


@pytest.fixture
def importance() -> Floats:
    """What few weights of each group dominate."""
    return np.exp(np.random.default_rng(1).normal(0, 1, (32, 50))).astype(np.float32)


def error(x: Floats, importance: Floats, scale: Floats, minimum: Floats, highest: int) -> NDArray[np.float64]:
    """The weighted squared error of each group with the nearest codes, in float64."""
    exact = x.astype(float) + minimum
    codes = np.clip(np.rint(exact / np.where(scale == 0, 1, scale)), 0, highest)
    found: NDArray[np.float64] = (importance * (codes * scale - exact) ** 2).sum(axis=0)
    return found


def test_a_sum_does_not_depend_on_how_many_groups_there_are(x: Floats) -> None:
    for count in (1, 2, 3, 17):
        np.testing.assert_array_equal(total(x[:, :count]), total(x)[:count])
        np.testing.assert_array_equal(total(np.ascontiguousarray(x[:, :count])), total(x)[:count])
    one_by_one = np.zeros(50, np.float32)
    for row in x:
        one_by_one += row
    np.testing.assert_array_equal(total(x), one_by_one)


def test_the_error_it_says_is_the_error_there_is(x: Floats, importance: Floats) -> None:
    fit = GroupFit(x, importance, lowest=0, highest=15, minimums="any")
    scale, minimum = fit.best(CANDIDATES, 2)
    said, high = fit.error(scale, minimum)
    np.testing.assert_allclose(said, error(x, importance, scale, minimum, 15), rtol=1e-4)
    exact = fit.round(scale, minimum).astype(float) * scale - minimum - x
    np.testing.assert_allclose(high, (importance * exact).sum(axis=0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("highest", [15, 31])
def test_near_the_best_of_all_scales_and_minimums(x: Floats, importance: Floats, highest: int) -> None:
    fit = GroupFit(x, importance, lowest=0, highest=highest, minimums="any")
    found = error(x, importance, *fit.best(CANDIDATES, 2), highest)
    span, start = fit.spanning()
    best = np.full(50, np.inf)
    for multiple in np.linspace(0.5, 1.3, 161):
        for end in np.linspace(-0.2, 1.2, 57):
            minimum = start - highest * span * (1 - multiple) * end
            best = np.minimum(best, error(x, importance, span * multiple, minimum, highest))
    assert found.sum() < 1.2 * best.sum()
    assert found.sum() < 0.8 * error(x, importance, span, start, highest).sum()


@pytest.mark.parametrize("kind", ["none", "positive", "any"])
@pytest.mark.parametrize("groups", [1, 50])
def test_compiled_it_finds_the_same_bits(x: Floats, importance: Floats, kind: str, groups: int) -> None:
    for exponent in (-30, -9, 0, 9):
        some = np.ascontiguousarray(x[:, :groups] * np.float32(10.0**exponent))
        counts = np.ascontiguousarray(importance[:, :groups])
        lowest = -8 if kind == "none" else 0
        plain, compiled = (
            GroupFit(some, counts, lowest=lowest, highest=lowest + 15, minimums=kind, kernels=kernels)
            for kernels in (None, compiled_fit)
        )
        found = plain.best(CANDIDATES, 2)
        for one, other in (
            (found, compiled.best(CANDIDATES, 2)),
            (plain.error(*found), compiled.error(*found)),
            (plain.moments(*found), compiled.moments(*found)),
        ):
            for ours, theirs in zip(one, other, strict=True):
                assert ours.tobytes() == theirs.tobytes()


def test_a_minimum_that_must_not_be_negative_is_not(x: Floats, importance: Floats) -> None:
    fit = GroupFit(np.abs(x) + 1, importance, lowest=0, highest=15, minimums="positive")
    _, minimum = fit.best(CANDIDATES, 2)
    assert (minimum >= 0).all()


def test_a_group_without_a_minimum_may_have_a_negative_scale() -> None:
    # One weight alone counts, and lies on the side with one code less.
    x = np.array([[1.0], [0.3], [-0.2]], np.float32)
    importance = np.array([[1.0], [1e-3], [1e-3]], np.float32)
    fit = GroupFit(x, importance, lowest=-8, highest=7)
    assert fit.spanning()[0] < 0
    scale, minimum = fit.best([(1.0, 0.0), (-1.0, 0.0)], 1)
    assert minimum == 0
    assert fit.error(scale, minimum)[0] < 1e-5
