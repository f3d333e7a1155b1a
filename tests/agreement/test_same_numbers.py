"""The same checkpoint for every engine: the same weights, therefore the same logits and the same answers."""

import itertools

import numpy as np
import pytest

from edgephi.build.build import find_checkpoint
from edgephi.bundle.manifest import ARTIFACT_FOLDER, read_manifest
from edgephi.checkpoint.config import load_architecture
from edgephi.checkpoint.tokenizer import encode
from edgephi.export.exporter import exporter
from edgephi.export.tensor_names import tensor_name
from edgephi.reference.evaluation_text import passages
from tests.agreement.conftest import RECIPE, TARGETS, Bundle, engine_of, weights_of
from tests.export.oracle import Floats, mean_kl, transformers_model
from tests.phi_3_chat import as_phi_3

STEPS = 64
LARGEST_KL = 2e-3


@pytest.fixture(scope="module")
def text() -> list[int]:
    folder = find_checkpoint("demo", RECIPE, None, progress=False).folder
    return encode(folder, "".join(passage.text for passage in passages(as_phi_3, "device")))[:256]


@pytest.fixture(scope="module")
def logits(demo: Bundle, text: list[int]) -> dict[str, Floats]:
    """Logits of every engine after each token of the text, float32 [tokens, vocabulary]."""
    return {target: np.concatenate([*engine_of(demo(target)).logits(text, step=32)]) for target in TARGETS}


def test_the_weights_are_bit_identical_as_each_formats_own_library_reads_them(demo: Bundle) -> None:
    expected = weights_of("cpu", demo("cpu") / ARTIFACT_FOLDER)
    assert len(expected) > 14
    for target in TARGETS[1:]:
        found = weights_of(target, demo(target) / ARTIFACT_FOLDER)
        assert found.keys() == expected.keys(), target
        for name, weights in expected.items():
            if weights.ndim == 2:
                np.testing.assert_array_equal(found[name], weights, err_msg=f"{target}: {name}")
            else:  # a norm's vector is float16 where the whole computation is
                np.testing.assert_allclose(found[name], weights, rtol=1e-3, err_msg=f"{target}: {name}")


def test_the_reference_reads_the_same_weights_from_each_artifact(demo: Bundle) -> None:
    architecture = load_architecture(find_checkpoint("demo", RECIPE, None, progress=False).folder)
    expected = weights_of("cpu", demo("cpu") / ARTIFACT_FOLDER)
    for target in TARGETS:
        engine = read_manifest(demo(target)).target.engine
        ours = exporter(engine).artifact_weights(demo(target) / ARTIFACT_FOLDER, architecture)
        for tensor, shape in architecture.tensor_shapes().items():
            weights = expected[tensor_name(tensor)]
            found = ours.rows(tensor, 0, shape[0])
            np.testing.assert_allclose(found, weights, rtol=1e-3 if weights.ndim == 1 else 0, atol=0)


@pytest.mark.parametrize("pair", [*itertools.permutations(TARGETS, 2)], ids="-".join)
def test_logits_agree_in_pairs(logits: dict[str, Floats], pair: tuple[str, str]) -> None:
    one, other = pair
    assert mean_kl(logits[one], logits[other]) <= LARGEST_KL


@pytest.mark.parametrize("target", TARGETS)
def test_logits_agree_with_transformers(
    demo: Bundle, logits: dict[str, Floats], text: list[int], target: str
) -> None:
    from tests.export.oracle import expected_logits

    folder = find_checkpoint("demo", RECIPE, None, progress=False).folder
    model = transformers_model(folder, demo("cpu") / ARTIFACT_FOLDER)
    assert mean_kl(expected_logits(model, text), logits[target]) <= LARGEST_KL


def test_greedy_tokens_are_the_same_for_64_steps(demo: Bundle, text: list[int]) -> None:
    """The most likely next token, 64 times over; stop tokens are tokens like any other here."""
    prompt = text[:16]
    sequences = {}
    for target in TARGETS:
        engine = engine_of(demo(target))
        tokens = list(prompt)
        for _ in range(STEPS):
            *_, last = engine.logits(tokens, step=len(tokens))
            tokens.append(int(last[-1].argmax()))
        sequences[target] = tokens[len(prompt) :]
    for target, tokens in sequences.items():
        assert tokens == sequences["cpu"], target
    assert len(set(sequences["cpu"])) > STEPS // 4
