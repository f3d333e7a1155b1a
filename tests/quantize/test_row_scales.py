"""Scales that are whole multiples of their row's."""

import numpy as np
import pytest
from numpy.typing import NDArray

from edgephi.declared.recipe import Method
from edgephi.quantize.groups import Groups, NotFiniteError, dequantize
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.row_scales import LARGEST_MULTIPLE
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan


def plan(bits: int = 4, *, method: Method = "search") -> TensorPlan:
    return TensorPlan(Scheme(8 if bits == 8 else 4, 32, scales="multiples"), method)


def some_weights(rows: int = 64, columns: int = 256) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_t(5, size=(rows, columns)).astype(np.float32) * np.float32(0.02)


def error_of(groups: Groups, weights: NDArray[np.float32], bits: int) -> float:
    return float(((dequantize(groups.codes, groups.scales, 1 << (bits - 1)) - weights) ** 2).sum())


class TestFourBits:
    def test_scales_are_whole_multiples_of_a_sixteenth_of_the_largest(self) -> None:
        scales = Quantizer().quantize(some_weights(), plan()).scales
        multiples = scales / scales.max(axis=1, keepdims=True) * LARGEST_MULTIPLE
        assert scales.shape == (64, 8)
        assert np.abs(multiples - np.rint(multiples)).max() < 1e-5
        assert multiples.min() >= 1

    def test_the_reported_error_is_that_of_the_codes(self) -> None:
        weights = some_weights()
        groups = Quantizer().quantize(weights, plan())
        assert groups.sums.squared_error == pytest.approx(error_of(groups, weights, 4), rel=1e-3)

    def test_costs_little_more_than_free_scales(self) -> None:
        weights = some_weights()
        free = Quantizer().quantize(weights, TensorPlan(Scheme(4, 32))).sums.squared_error
        assert Quantizer().quantize(weights, plan()).sums.squared_error < 1.3 * free

    def test_searching_is_better_than_rounding(self) -> None:
        weights = some_weights()
        rounded = Quantizer().quantize(weights, plan(method="rtn")).sums.squared_error
        assert Quantizer().quantize(weights, plan()).sums.squared_error < 0.95 * rounded

    def test_rows_of_zeros_stay_zero(self) -> None:
        weights = some_weights()
        weights[3] = 0
        groups = Quantizer().quantize(weights, plan())
        assert (dequantize(groups.codes, groups.scales, 8)[3] == 0).all()
        assert (groups.scales > 0).all()


class TestEightBits:
    def test_has_one_scale_a_row(self) -> None:
        weights = some_weights()
        groups = Quantizer().quantize(weights, plan(8))
        assert groups.scales.shape == (64, 1)
        assert error_of(groups, weights, 8) < 1e-3 * float((weights**2).sum())

    def test_no_weight_is_farther_off_than_half_a_step(self) -> None:
        weights = some_weights()
        groups = Quantizer().quantize(weights, plan(8))
        off = np.abs(dequantize(groups.codes, groups.scales, 128) - weights)
        assert (off <= groups.scales * np.float32(0.501)).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_weights_that_are_not_finite(bits: int, bad: float) -> None:
    weights = some_weights()
    weights[1, 2] = bad
    with pytest.raises(NotFiniteError):
        Quantizer().quantize(weights, plan(bits))
