"""Matrices of 8 bits among those of 4, the first one of all and others: every format says which is which."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgephi.build.build import find_checkpoint
from edgephi.bundle.manifest import ARTIFACT_FOLDER, read_manifest
from edgephi.checkpoint.tokenizer import encode
from edgephi.declared.recipe import Keep
from tests.agreement.conftest import RECIPE, TARGETS, Bundle, build_for, engine_of, weights_of
from tests.export.oracle import Floats, expected_logits, mean_kl, transformers_model

KEPT = (
    "model.layers.0.self_attn.qkv_proj",
    "model.layers.1.self_attn.o_proj",
    "model.layers.1.mlp.gate_up_proj",
    "model.layers.2.mlp.down_proj",
)
MIXED = dataclasses.replace(RECIPE, quant=dataclasses.replace(RECIPE.quant, keep=Keep(KEPT)))
LARGEST_KL = 2e-3


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("mixed")

    def bundle(target: str) -> Path:
        place = folder / target
        return place if place.exists() else build_for(target, "demo", place, recipe=MIXED)

    return bundle


@pytest.fixture(scope="module")
def codes_of_a_row(mixed: Bundle) -> dict[str, int]:
    """How many different weights the groups of each matrix have at most, read by the format's own library."""
    weights = weights_of("cpu", mixed("cpu") / ARTIFACT_FOLDER)
    return {
        name.removesuffix(".weight"): max(len(np.unique(group)) for group in matrix.reshape(-1, 32))
        for name, matrix in weights.items()
        if ".layers." in name and matrix.ndim == 2
    }


def test_these_have_more_than_16_weights_in_a_group_and_no_others(codes_of_a_row: dict[str, int]) -> None:
    assert len(codes_of_a_row) == 12
    assert {name for name, count in codes_of_a_row.items() if count > 16} == {*KEPT}


@pytest.mark.parametrize("target", TARGETS)
def test_the_manifest_names_them(mixed: Bundle, target: str) -> None:
    assert read_manifest(mixed(target)).quant.kept == KEPT


@pytest.mark.parametrize("target", TARGETS[1:])
def test_every_format_has_the_same_weights(mixed: Bundle, target: str) -> None:
    expected = weights_of("cpu", mixed("cpu") / ARTIFACT_FOLDER)
    found = weights_of(target, mixed(target) / ARTIFACT_FOLDER)
    assert found.keys() == expected.keys()
    for name, weights in expected.items():
        if weights.ndim == 2:
            np.testing.assert_array_equal(found[name], weights, err_msg=name)


@pytest.fixture(scope="module")
def expected(mixed: Bundle) -> tuple[list[int], Floats]:
    """Token ids, and what transformers computes after each of them with the weights of the artifact."""
    folder = find_checkpoint("demo", MIXED, None, progress=False).folder
    ids = encode(folder, "turn on the kitchen light and set a timer for ten minutes")[:32]
    return ids, expected_logits(transformers_model(folder, mixed("cpu") / ARTIFACT_FOLDER), ids)


@pytest.mark.parametrize("target", TARGETS)
def test_every_engine_computes_with_them(
    mixed: Bundle, expected: tuple[list[int], Floats], target: str
) -> None:
    ids, logits = expected
    found = np.concatenate([*engine_of(mixed(target)).logits(ids, step=len(ids))])
    assert mean_kl(logits, found) <= LARGEST_KL
