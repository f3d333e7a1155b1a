"""The method "calibrated" on one matrix: every way of storing scales gains by it, and its errors are real."""

import functools
from dataclasses import replace

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from edgephi.export.gguf.blocks import TYPES, pack
from edgephi.quantize.calibrated.calibrated_codes import CalibratedCodes, lines_of
from edgephi.quantize.calibrated.error_feedback import (
    BLOCK_COLUMNS,
    Feedback,
    block_moments,
    column_blocks,
    feedback_of,
)
from edgephi.quantize.groups import Groups, NotFiniteError, error_sums, restored
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan

COLUMNS = 4 * BLOCK_COLUMNS  # two super-blocks
_CAUSES = 96
SCHEMES = [
    Scheme(4, 32),
    Scheme(4, 64, symmetric=False),
    Scheme(4, 128, symmetric=False),
    Scheme(4, 32, symmetric=False, scales="offset"),
    Scheme(4, 32, scales="multiples"),
    Scheme(5, 32),
    Scheme(5, 32, symmetric=False, scales="offset"),
    Scheme(4, 32, symmetric=False, scales="superblocks"),
    Scheme(5, 32, symmetric=False, scales="superblocks"),
    Scheme(6, 16, scales="superblocks"),
]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
WEIGHTS = np.random.default_rng(0).standard_t(4, (70, COLUMNS)).astype(np.float32)


@functools.cache
def inputs_of(seed: int) -> NDArray[np.float32]:
    """Inputs [tokens, columns] that are alike, a few of them large; the seed draws tokens, not the layer."""
    layer = np.random.default_rng(7)
    loudness = np.exp(layer.normal(0, 1, COLUMNS))
    loudness[layer.choice(COLUMNS, 5, replace=False)] *= 10
    causes = layer.normal(size=(_CAUSES, COLUMNS))
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(4096, _CAUSES)) @ causes + rng.normal(size=(4096, COLUMNS))
    return (tokens * loudness).astype(np.float32)


@pytest.fixture(scope="module")
def feedback() -> Feedback:
    inputs = inputs_of(0)
    return feedback_of([block_moments(inputs[:, block]) for block in column_blocks(inputs.shape[1])])


def plan_of(scheme: Scheme) -> TensorPlan:
    importance = np.square(inputs_of(0)).mean(axis=0)
    return TensorPlan(scheme, "calibrated", importance=importance)


def lost(groups: Groups, scheme: Scheme) -> float:
    """The squared error of the products with inputs that no code was fitted to."""
    return float(np.square((restored(groups, scheme) - WEIGHTS) @ inputs_of(1).T).sum())


@every_scheme
def test_products_lose_less_than_with_the_nearest_codes(scheme: Scheme, feedback: Feedback) -> None:
    plan = plan_of(scheme)
    nearest = Quantizer().quantize(WEIGHTS, replace(plan, method="weighted"))
    assert lost(CalibratedCodes().quantize(WEIGHTS, plan, feedback), scheme) < 0.5 * lost(nearest, scheme)


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme in TYPES])
def test_gguf_library_decodes_what_was_meant(scheme: Scheme, feedback: Feedback) -> None:
    groups = CalibratedCodes().quantize(WEIGHTS, plan_of(scheme), feedback)
    (blocks,) = pack(groups, scheme)
    decoded = gguf.quants.dequantize(blocks, TYPES[scheme]).reshape(WEIGHTS.shape)
    np.testing.assert_array_equal(decoded, restored(groups, scheme))


@every_scheme
def test_the_reported_errors_are_the_real_ones(scheme: Scheme, feedback: Feedback) -> None:
    plan = plan_of(scheme)
    groups = CalibratedCodes().quantize(WEIGHTS, plan, feedback)
    assert groups.sums == error_sums(WEIGHTS, restored(groups, scheme), plan.importance)


@every_scheme
def test_compiled_or_not_and_row_by_row_it_stores_the_same(scheme: Scheme, feedback: Feedback) -> None:
    plan = plan_of(scheme)
    compiled, plain = (CalibratedCodes(after).quantize(WEIGHTS, plan, feedback) for after in (0, 1 << 30))
    np.testing.assert_array_equal(compiled.codes, plain.codes)
    some = CalibratedCodes().quantize(WEIGHTS[11:13], plan.of_rows(11, 13), feedback)
    np.testing.assert_array_equal(some.codes, plain.codes[11:13])
    np.testing.assert_array_equal(some.scales, plain.scales[11:13])


@every_scheme
def test_weights_lie_on_the_lines_of_their_groups(scheme: Scheme) -> None:
    groups = Quantizer().quantize(WEIGHTS, plan_of(scheme))
    scales, offsets = (np.repeat(each, scheme.group_size, axis=1) for each in lines_of(groups, scheme))
    np.testing.assert_allclose(groups.codes * scales + offsets, restored(groups, scheme), atol=1e-5)


def test_what_cannot_be_stored_is_refused(feedback: Feedback) -> None:
    weights = WEIGHTS.copy()
    weights[3, 200] = np.nan
    with pytest.raises(NotFiniteError):
        CalibratedCodes().quantize(weights, plan_of(Scheme(4, 32)), feedback)
