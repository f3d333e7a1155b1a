"""EleutherAI's lm-evaluation-harness, unchanged, against `edgephi serve`."""

import dataclasses
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import edgephi.runtime
from edgephi.build.build import find_checkpoint
from edgephi.bundle.manifest import ARTIFACT_FOLDER, read_manifest
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import read_target
from edgephi.runtime.session import Options
from tests.build.demo import build_demo
from tests.export.oracle import transformers_model
from tests.server.clients.conftest import PythonWith
from tests.server.clients.harness import (
    BEGINNINGS,
    MOST_TOKENS,
    REQUIREMENTS,
    UNTIL,
    Evaluated,
    evaluate,
    expected_likelihood,
)
from tests.server.serving import serving

pytestmark = pytest.mark.slow

CHECKPOINT = find_checkpoint("demo", read_recipe("demo"), None, progress=False).folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with activations as they are, so that its numbers are those of its weights."""
    target = read_target("cpu")
    exact = dataclasses.replace(target, kernels=dataclasses.replace(target.kernels, accuracy_level=0))
    return build_demo(exact, tmp_path_factory.mktemp("exact") / "bundle", verify="off").folder


@pytest.fixture(scope="module")
def evaluated(bundle: Path, tmp_path_factory: pytest.TempPathFactory, python_with: PythonWith) -> Evaluated:
    """What the harness says of 15 questions and 5 beginnings."""
    python, folder = python_with(REQUIREMENTS), tmp_path_factory.mktemp("lm-eval")
    with serving(bundle, folder, "--context", 512) as server:
        return evaluate(python, server.url, read_manifest(bundle).name, CHECKPOINT, folder, batch=8)


def test_likelihoods_are_those_of_transformers_on_the_dequantised_weights(
    bundle: Path, evaluated: Evaluated
) -> None:
    model = transformers_model(CHECKPOINT, bundle / ARTIFACT_FOLDER)
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    assert len(evaluated.likelihoods) == 30
    for found in evaluated.likelihoods:
        value, is_greedy = expected_likelihood(model, tokenizer, found.context, found.continuation)
        assert found.value == pytest.approx(value, abs=1e-2)
        assert found.is_greedy == is_greedy
    assert 0 <= evaluated.accuracy <= 1


def test_texts_are_those_that_the_bundle_writes(bundle: Path, evaluated: Evaluated) -> None:
    session = edgephi.runtime.load(bundle)
    options = Options(max_tokens=MOST_TOKENS, stop=UNTIL)
    expected = ["".join(session.complete(beginning, options)) for beginning in BEGINNINGS]
    assert evaluated.texts == expected
