"""An adapter for a bundle whose outlier channels are folded is folded as they are."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgephi.build.switched_adapters.adapted_weights import AdaptedWeights
from edgephi.build.switched_adapters.folded_scales import (
    FOLDED_SCALES_NAME,
    read_folded_scales,
    write_folded_scales,
)
from edgephi.checkpoint.adapter.locate_adapter import locate_adapters
from edgephi.checkpoint.adapter.low_rank_factors import low_rank_factors
from edgephi.checkpoint.adapter.merged import merged
from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointWeights, open_checkpoint
from edgephi.checkpoint.roles import ModelTensor
from edgephi.errors import BadBundleError
from edgephi.export.safetensors_file import write_safetensors
from edgephi.quantize.folding import FoldedWeights, channel_scale, row_factors
from edgephi.quantize.tensor_plan import TensorPlan
from tests.checkpoint.adapter.peft_adapter import save_adapter
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("base") / "base")
    return open_checkpoint(folder, id="base", revision="local")


def folded_plans(checkpoint: Checkpoint) -> dict[ModelTensor, TensorPlan]:
    """A plan in which every matrix is folded that can be, each by scales of its own."""
    architecture = checkpoint.architecture
    shapes, random = architecture.tensor_shapes(), np.random.default_rng(5)
    columns = {
        tensor: channel_scale(random.pareto(1, shape[1]).astype(np.float32) + 0.1, 0.65)
        for tensor, shape in shapes.items()
        if len(shape) == 2
    }
    rows = row_factors(columns, architecture)
    foldable = {tensor for tensor in columns if row_factors({tensor: columns[tensor]}, architecture)}
    return {
        tensor: TensorPlan(
            None,
            column_factors=columns[tensor] if tensor in foldable else None,
            row_factors=rows.get(tensor),
        )
        for tensor in shapes
    }


def test_folded_base_and_folded_adapter_are_the_merged_model_folded(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    saved = save_adapter(checkpoint.folder, tmp_path / "adapter")
    (adapter,) = locate_adapters([str(saved)])
    plans = folded_plans(checkpoint)
    write_folded_scales(tmp_path, plans)
    columns = read_folded_scales(tmp_path, checkpoint.architecture)
    rows = row_factors(columns, checkpoint.architecture)
    factors = {
        tensor: own.scaled(rows.get(tensor), columns.get(tensor))
        for tensor, own in low_rank_factors(checkpoint, adapter).items()
    }
    whole = FoldedWeights(CheckpointWeights(merged(checkpoint, [adapter])), plans)
    base = FoldedWeights(CheckpointWeights(checkpoint), plans)
    switched = AdaptedWeights(base, factors)
    assert len(columns) == 3 * checkpoint.architecture.layers + 1
    for tensor, shape in checkpoint.architecture.tensor_shapes().items():
        expected = whole.rows(tensor, 0, shape[0])
        found = switched.rows(tensor, 0, shape[0])
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, atol=2e-6 * scale, rtol=1e-5, err_msg=str(tensor))


def test_scales_are_read_back_as_they_were(checkpoint: Checkpoint, tmp_path: Path) -> None:
    plans = folded_plans(checkpoint)
    write_folded_scales(tmp_path, plans)
    found = read_folded_scales(tmp_path, checkpoint.architecture)
    for tensor, plan in plans.items():
        if plan.column_factors is not None:
            np.testing.assert_array_equal(found[tensor], plan.column_factors)


def test_a_build_that_folds_nothing_has_no_such_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    plans = {
        tensor: dataclasses.replace(plan, column_factors=None)
        for tensor, plan in folded_plans(checkpoint).items()
    }
    write_folded_scales(tmp_path, plans)
    assert not (tmp_path / FOLDED_SCALES_NAME).exists()
    assert read_folded_scales(tmp_path, checkpoint.architecture) == {}


def test_scales_of_another_model_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    name = "model.layers.99.mlp.down_proj"
    write_safetensors(tmp_path / FOLDED_SCALES_NAME, {name: np.ones(4, np.float16)}, made_for="edgephi")
    with pytest.raises(BadBundleError, match=r"layers\.99\.mlp\.down_proj: expected the columns' scales"):
        read_folded_scales(tmp_path, checkpoint.architecture)
