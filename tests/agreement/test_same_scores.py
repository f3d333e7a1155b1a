"""The scores of a text: those of transformers on the weights of the bundle, on every engine."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import edgephi.runtime
from edgephi.build.build import find_checkpoint
from edgephi.bundle.manifest import ARTIFACT_FOLDER
from edgephi.declared.target import read_target
from tests.agreement.conftest import PROVIDER, RECIPE, TARGETS, Bundle
from tests.build.demo import build_demo
from tests.export.oracle import Floats, expected_logits, transformers_model

TEXT = "turn on the kitchen light, then set a timer for ten minutes — zehn Minuten, please"
# Most engines multiply with activations of 8 or 16 bits, which moves unlikely tokens by a tenth.
ROUNDED, EXACT = 0.2, 1e-3


@pytest.mark.parametrize("target", TARGETS)
def test_scores_are_those_of_transformers_on_the_same_weights(target: str, demo: Bundle) -> None:
    check_scores(demo(target), demo("cpu"), ROUNDED)


def test_with_activations_as_they_are_to_a_thousandth(tmp_path: Path) -> None:
    target = read_target("cpu")
    exact = dataclasses.replace(target, kernels=dataclasses.replace(target.kernels, accuracy_level=0))
    bundle = build_demo(exact, tmp_path / "bundle", recipe=RECIPE, verify="off").folder
    check_scores(bundle, bundle, EXACT)


def check_scores(bundle: Path, weights: Path, largest_error: float) -> None:
    """Compare a bundle's scores with those of transformers on the weights of another bundle's artifact."""
    folder = find_checkpoint("demo", RECIPE, None, progress=False).folder
    model = transformers_model(folder, weights / ARTIFACT_FOLDER)
    first, *scores = edgephi.runtime.load(bundle, provider=PROVIDER).score(TEXT, alternatives=3)
    tokens = [first.token, *(score.token for score in scores)]
    assert first.logprob is None and not first.alternatives
    expected = torch.from_numpy(expected_logits(model, tokens)).double().log_softmax(-1).numpy()[:-1]
    found: Floats = np.array([score.logprob for score in scores], np.float32)
    taken = expected[np.arange(len(scores)), tokens[1:]]
    np.testing.assert_allclose(found, taken, rtol=0, atol=largest_error)
    likely = -np.sort(-expected, axis=1)[:, :3]
    found = np.array([[each.logprob for each in score.alternatives] for score in scores], np.float32)
    np.testing.assert_allclose(found, likely, rtol=0, atol=largest_error)
    assert bytes(byte for score in (first, *scores) for byte in score.bytes).decode() == TEXT
