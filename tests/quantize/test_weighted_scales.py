"""Codes by importance: compiled or not the same ones, and errors are the real ones."""

import numpy as np
import pytest

from edgephi.quantize.groups import NotFiniteError, error_sums, restored
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan
from edgephi.quantize.weighted_scales import WeightedScales

SCHEMES = [
    Scheme(4, 32),
    Scheme(4, 64, symmetric=False),
    Scheme(4, 128, symmetric=False),
    Scheme(4, 32, symmetric=False, scales="offset"),
    Scheme(8, 64, symmetric=False, scales="offset"),
]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def outlying_inputs(columns: int) -> np.ndarray:
    """An importance like those of trained models: a few inputs have most of the energy."""
    rng = np.random.default_rng(3)
    importance = np.exp(rng.normal(0, 1, columns))
    importance[rng.choice(columns, columns // 50, replace=False)] *= 1000
    return importance.astype(np.float32)


@every_scheme
def test_the_reported_errors_are_the_real_ones(scheme: Scheme) -> None:
    weights = np.random.default_rng(0).standard_t(4, (70, 256)).astype(np.float32)
    plan = TensorPlan(scheme, "weighted", importance=outlying_inputs(256))
    groups = Quantizer().quantize(weights, plan)
    real = error_sums(weights, restored(groups, scheme), plan.importance)
    assert groups.sums.squared_error == pytest.approx(real.squared_error, rel=1e-4)
    assert groups.sums.squared_norm == pytest.approx(real.squared_norm, rel=1e-4)
    assert groups.sums.weighted_squared_error == pytest.approx(real.weighted_squared_error, rel=1e-4)
    assert groups.sums.weighted_squared_norm == pytest.approx(real.weighted_squared_norm, rel=1e-4)


@every_scheme
def test_compiled_or_not_it_stores_the_same(scheme: Scheme) -> None:
    weights = np.random.default_rng(1).standard_t(4, (70, 256)).astype(np.float32)
    plan = TensorPlan(scheme, "weighted", importance=outlying_inputs(256))
    compiled, plain = (WeightedScales(after).quantize(weights, plan) for after in (0, 1 << 30))
    np.testing.assert_array_equal(compiled.codes, plain.codes)
    np.testing.assert_array_equal(compiled.scales, plain.scales)


@pytest.mark.parametrize(
    "scheme", [Scheme(4, 32), Scheme(4, 32, symmetric=False), Scheme(4, 32, scales="multiples")]
)
def test_an_importance_halves_the_error_that_counts(scheme: Scheme) -> None:
    weights = np.random.default_rng(2).standard_t(4, (64, 512)).astype(np.float32)
    importance = outlying_inputs(512)
    found = Quantizer().quantize(weights, TensorPlan(scheme, "weighted", importance=importance)).sums
    searched = Quantizer().quantize(weights, TensorPlan(scheme, "search", importance=importance)).sums
    assert found.weighted_squared_error < 0.55 * searched.weighted_squared_error
    assert found.squared_error > searched.squared_error


@every_scheme
def test_every_code_is_the_nearest_under_the_scale_that_is_stored(scheme: Scheme) -> None:
    weights = np.random.default_rng(4).standard_t(4, (16, 256)).astype(np.float32)
    groups = Quantizer().quantize(weights, TensorPlan(scheme, "weighted", importance=outlying_inputs(256)))
    stored = restored(groups, scheme)
    step = np.abs(np.repeat(groups.scales.astype(np.float32), scheme.group_size, axis=1))
    inside = (groups.codes > 0) & (groups.codes < scheme.levels - 1)
    assert (np.abs(stored - weights)[inside] <= 0.5001 * step[inside]).all()


@every_scheme
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_cannot_be_stored_is_refused(scheme: Scheme, value: float) -> None:
    weights = np.ones((4, 256), np.float32)
    weights[2, 200] = value
    with pytest.raises(NotFiniteError):
        Quantizer().quantize(weights, TensorPlan(scheme, "weighted"))


@every_scheme
def test_zeros_stay_zeros(scheme: Scheme) -> None:
    groups = Quantizer().quantize(np.zeros((3, 256), np.float32), TensorPlan(scheme, "weighted"))
    assert not restored(groups, scheme).any()
