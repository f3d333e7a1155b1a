"""Folding outliers: the same function as before, and less error where it counts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.checkpoint import CheckpointWeights, open_checkpoint
from edgephi.checkpoint.roles import BIASES, FINAL_NORM, HEAD, ModelTensor, Role
from edgephi.declared.recipe import Quant
from edgephi.quantize.folding import (
    LARGEST_SCALE,
    FoldedWeights,
    channel_scale,
    fold_count,
    weigh,
)
from edgephi.quantize.groups import restored
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.tensor_plan import TensorPlan
from edgephi.reference.forward import final_hidden_states, logits
from edgephi.reference.importance import measure_importance
from edgephi.reference.weights import Weights
from tests.property_profile import examples
from tests.tiny_checkpoint import TinyShape, write_tiny_checkpoint
from tests.tiny_phi3small import write_tiny_phi3small
from tests.tiny_phimoe import write_tiny_phimoe

Floats = NDArray[np.float32]

QUANT = Quant(method="weighted", group_size=32, head_bits=4)
PASSAGES = [list(range(40)), list(range(60, 20, -1))]
QKV, DOWN = ModelTensor(Role.QUERY_KEY_VALUE, 0), ModelTensor(Role.DOWN, 1)


@dataclass(frozen=True)
class Outlying:
    """Weights of a model whose norms make a few channels loud, as training does, so that their inputs are."""

    weights: CheckpointWeights

    @property
    def architecture(self) -> Architecture:
        return self.weights.architecture

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> Floats:
        rows = self.weights.rows(tensor, start, stop)
        if rows.ndim == 1:
            return rows * np.where(np.arange(start, stop) % 50 == 7, np.float32(40), np.float32(1))
        return rows


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Outlying:
    folder = write_tiny_checkpoint(tmp_path / "model", TinyShape(tied=request.param))
    return Outlying(CheckpointWeights(open_checkpoint(folder, id="tiny", revision="")))


def words(weights: Weights) -> Floats:
    """The logits of every token of PASSAGES."""
    (hidden,) = final_hidden_states([weights], PASSAGES)
    return logits(weights, hidden)


def weighed_plans(model: Outlying) -> dict[ModelTensor, TensorPlan]:
    plans = plan_tensors(model.architecture, QUANT)
    return weigh(plans, measure_importance(model, PASSAGES), model)


def test_the_folded_model_computes_the_same(model: Outlying) -> None:
    plans = weighed_plans(model)
    factors = plans[QKV].column_factors
    assert factors is not None
    assert factors.max() > 2  # there is something to show
    before, after = words(model), words(FoldedWeights(model, plans))
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-4 * np.abs(before).max())


@pytest.mark.parametrize("write", [write_tiny_phimoe, write_tiny_phi3small])
def test_layer_norms_are_folded_with_their_biases(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    """And where a router has the same inputs as its experts, it chooses the same ones."""
    folder = write(tmp_path / "model")
    model = Outlying(CheckpointWeights(open_checkpoint(folder, id="tiny", revision="")))
    plans = weighed_plans(model)
    folded = {tensor for tensor, plan in plans.items() if plan.row_factors is not None}
    for layer in range(model.architecture.layers):
        for role in (Role.ATTENTION_NORM, Role.FEED_FORWARD_NORM):
            assert {ModelTensor(role, layer), ModelTensor(BIASES[role], layer)} <= folded
    before, after = words(model), words(FoldedWeights(model, plans))
    used = before.max(axis=0) > np.finfo(np.float32).min
    largest = np.abs(before[:, used]).max()
    np.testing.assert_allclose(after[:, used], before[:, used], rtol=0, atol=1e-3 * largest)


def test_columns_of_a_matrix_and_rows_before_it_cancel(model: Outlying) -> None:
    plans = weighed_plans(model)
    norm = plans[ModelTensor(Role.ATTENTION_NORM, 0)].row_factors
    assert norm is not None
    columns = plans[QKV].column_factors
    assert columns is not None
    np.testing.assert_allclose(norm * columns, 1, rtol=1e-6)
    down, gate_up = plans[DOWN].column_factors, plans[ModelTensor(Role.GATE_UP, 1)].row_factors
    assert (down is None) == (gate_up is None)
    if down is not None and gate_up is not None:
        gate, up = np.split(gate_up, 2)
        assert (gate == 1).all()
        np.testing.assert_allclose(up * down, 1, rtol=1e-6)


def test_a_tied_head_is_not_folded(model: Outlying) -> None:
    plans, head = weighed_plans(model), model.architecture.head
    assert (plans[head].column_factors is not None) == (head == HEAD)
    assert (plans[FINAL_NORM].row_factors is not None) == (head == HEAD)
    assert plans[head].importance is not None


def test_every_fold_is_told_of(model: Outlying) -> None:
    told: list[int] = []
    plans = plan_tensors(model.architecture, QUANT)
    weigh(plans, measure_importance(model, PASSAGES), model, done=told.append)
    assert sum(told) == fold_count(model.architecture) == 6 + (model.architecture.head == HEAD)


def test_loud_channels_cost_less(model: Outlying) -> None:
    plans = plan_tensors(model.architecture, QUANT)
    importance = measure_importance(model, PASSAGES)
    folded = weigh(plans, importance, model)[QKV]
    assert folded.column_factors is not None
    rows = model.rows(QKV, 0, 512)
    plain = TensorPlan(plans[QKV].scheme, "weighted", importance=importance[QKV])
    errors = []
    for plan in (plain, folded):
        groups = Quantizer().quantize(plan.factored(rows), plan)
        back = restored(groups, plan.quantised)
        if plan.column_factors is not None:
            back /= plan.column_factors
        errors.append(float((np.square(back - rows) @ importance[QKV]).sum()))
    assert errors[1] < 0.7 * errors[0]


@settings(max_examples=examples(100))
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from([0.1, 1.0, 5.0, 20.0]))
def test_scales_are_at_least_one_and_what_float16_norms_bear(seed: int, power: float, spread: float) -> None:
    logarithms = np.clip(np.random.default_rng(seed).normal(0, spread, 96), -80, 80)
    importance = np.exp(logarithms).astype(np.float32)
    scale = channel_scale(importance, power)
    assert scale.min() >= 1
    assert scale.max() <= LARGEST_SCALE
    assert (scale[importance <= np.median(importance)] == 1).all()
    # Eight bits: a weight in bfloat16 times it is exact.
    mantissa = np.frexp(scale)[0] * 256
    np.testing.assert_array_equal(mantissa, np.rint(mantissa))


def test_what_stays_8_bit_is_not_folded(model: Outlying) -> None:
    plans = plan_tensors(model.architecture, Quant("weighted", bits=8, group_size=32, head_bits=8))
    weighed = weigh(plans, measure_importance(model, PASSAGES), model)
    assert all(plan.column_factors is None and plan.row_factors is None for plan in weighed.values())
