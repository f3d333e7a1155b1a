"""Super-blocks: well formed for any weights, near what could be found, and better than llama.cpp's own."""

import ctypes
from pathlib import Path

import gguf
import numpy as np
import pytest
import xllamacpp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgephi.export.gguf.blocks import TYPES, pack
from edgephi.quantize.groups import NotFiniteError, restored
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.super_blocks import SuperBlocks
from edgephi.quantize.tensor_plan import TensorPlan
from tests.property_profile import examples
from tests.quantize.test_free_scales import drawn_blocks

Floats = NDArray[np.float32]

FOUR = Scheme(4, 32, symmetric=False, scales="superblocks")
FIVE = Scheme(5, 32, symmetric=False, scales="superblocks")
SIX = Scheme(6, 16, symmetric=True, scales="superblocks")
every_scheme = pytest.mark.parametrize("scheme", [FOUR, FIVE, SIX], ids=["Q4_K", "Q5_K", "Q6_K"])


def importance_of(columns: int, spread: float, seed: int = 0) -> Floats:
    return np.exp(np.random.default_rng(seed).normal(0, spread, columns)).astype(np.float32)


def weighted_error(found: Floats, weights: Floats, importance: Floats) -> float:
    return float((importance * (found.astype(float) - weights) ** 2).sum())


def llama_cpp(weights: Floats, importance: Floats, scheme: Scheme) -> Floats:
    """The weights as llama.cpp itself quantises them with an importance matrix, dequantised."""
    (library,) = Path(xllamacpp.__file__).parent.glob("xllamacpp.*.so")
    quantize = ctypes.CDLL(str(library)).ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    kind = TYPES[scheme]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = weights.shape
    blocks = np.empty((rows, columns // block * size), np.uint8)
    written = quantize(
        int(kind), weights.ctypes.data, blocks.ctypes.data, 0, rows, columns, importance.ctypes.data
    )
    assert written == blocks.nbytes
    found: Floats = gguf.quants.dequantize(blocks, kind)
    return found


@every_scheme
class TestAnyWeights:
    @settings(max_examples=examples(40))
    @given(weights=drawn_blocks(-12, 4), spread=st.sampled_from([0.0, 1.0, 5.0]))
    def test_codes_and_numbers_are_in_range_and_the_error_is_true(
        self, scheme: Scheme, weights: Floats, spread: float
    ) -> None:
        importance = importance_of(weights.shape[1], spread)
        plan = TensorPlan(scheme, "weighted", importance=importance)
        groups = Quantizer().quantize(weights, plan)
        assert groups.codes.shape == weights.shape
        assert groups.codes.max() < scheme.levels
        assert groups.scales.shape == (len(weights), 1, 1 if scheme.symmetric else 2)
        assert np.isfinite(groups.scales).all()
        assert groups.multiples is not None
        assert groups.multiples.shape == (len(weights), 256 // scheme.group_size)
        if not scheme.symmetric:
            assert groups.minimums is not None
            assert max(groups.multiples.max(), groups.minimums.max()) <= 63
        real = weighted_error(restored(groups, scheme), weights, importance)
        assert groups.sums.weighted_squared_error == pytest.approx(real, rel=1e-3, abs=1e-38)

    @settings(max_examples=examples(30))
    @given(weights=drawn_blocks(-3, 3), spread=st.sampled_from([0.0, 2.0]))
    def test_the_search_is_no_worse_than_no_search(
        self, scheme: Scheme, weights: Floats, spread: float
    ) -> None:
        importance = importance_of(weights.shape[1], spread)
        errors = {
            method: Quantizer().quantize(weights, TensorPlan(scheme, method, importance=importance)).sums
            for method in ("weighted", "rtn")
        }
        found, spanning = (errors[method].weighted_squared_error for method in ("weighted", "rtn"))
        assert found <= 1.001 * spanning

    @settings(max_examples=examples(20))
    @given(weights=drawn_blocks(-5, 3))
    def test_a_row_does_not_depend_on_the_rows_beside_it(self, scheme: Scheme, weights: Floats) -> None:
        plan = TensorPlan(scheme, "weighted", importance=importance_of(256, 2.0))
        together = restored(Quantizer().quantize(np.tile(weights, (300, 1)), plan), scheme)
        for row, weight in enumerate(weights):
            alone = restored(Quantizer().quantize(weight[None], plan), scheme)
            np.testing.assert_array_equal(together[row], alone[0])
            np.testing.assert_array_equal(together[row - len(weights)], alone[0])

    @settings(max_examples=examples(20))
    @given(weights=drawn_blocks(-9, 4), spread=st.sampled_from([0.0, 2.0]))
    def test_compiled_it_writes_the_same_bytes(self, scheme: Scheme, weights: Floats, spread: float) -> None:
        plan = TensorPlan(scheme, "weighted", importance=importance_of(256, spread))
        plain, compiled = (SuperBlocks(after).quantize(weights, plan) for after in (1 << 30, 0))
        for one, other in zip(pack(plain, scheme), pack(compiled, scheme), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_zeros_stay_zeros(self, scheme: Scheme) -> None:
        weights = np.zeros((2, 512), np.float32)
        weights[1, 300] = 1.0
        for method in ("weighted", "search", "rtn"):
            found = restored(Quantizer().quantize(weights, TensorPlan(scheme, method)), scheme)
            assert not found[0].any()
            assert found[1, 300] == pytest.approx(1.0, rel=1e-2)
            assert not found[1, :256].any()

    @pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
    def test_a_broken_weight_is_refused(self, scheme: Scheme, broken: float) -> None:
        weights = np.ones((3, 256), np.float32)
        weights[1, 77] = broken
        with pytest.raises(NotFiniteError, match="NaN or infinity"):
            Quantizer().quantize(weights, TensorPlan(scheme, "weighted"))

    @pytest.mark.filterwarnings("error")
    def test_a_weight_past_the_range_is_refused(self, scheme: Scheme) -> None:
        weights = np.random.default_rng(2).standard_normal((2, 256), np.float32)
        for large in (1e9, 1e30, 1e37):
            with pytest.raises(NotFiniteError, match="past float16's range"):
                Quantizer().quantize(weights * np.float32(large), TensorPlan(scheme, "weighted"))


@every_scheme
@pytest.mark.parametrize("spread", [0.5, 2.0])
@pytest.mark.parametrize("freedom", [3, 50])
def test_the_error_is_below_that_of_llama_cpp(scheme: Scheme, spread: float, freedom: int) -> None:
    """With the same importance, on weights with many outliers and with few."""
    weights = np.random.default_rng(3).standard_t(freedom, (64, 1024)).astype(np.float32) * np.float32(0.02)
    importance = importance_of(1024, spread)
    ours = restored(
        Quantizer().quantize(weights, TensorPlan(scheme, "weighted", importance=importance)), scheme
    )
    theirs = llama_cpp(weights, importance, scheme)
    assert weighted_error(ours, weights, importance) < weighted_error(theirs, weights, importance)
