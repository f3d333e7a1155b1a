"""How a bundle answers its probe is shown, and a model that says one thing for ever gives no bundle."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgephi.bundle.manifest import read_manifest
from tests.build.conftest import Here, here  # noqa: F401 - a fixture
from tests.tiny_checkpoint import TinyShape, tiny_weights, write_tiny_checkpoint, write_weights

SHAPE = TinyShape(layers=1, hidden=128, ffn=128, context=256)


@pytest.fixture(scope="module")
def stuck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says the letter x whatever it reads."""
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("stuck") / "stuck", SHAPE)
    letter = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]["x"]
    weights = tiny_weights(SHAPE)
    weights["model.embed_tokens.weight"] += 1
    weights["lm_head.weight"][letter] = 1
    write_weights(folder, weights)
    return folder


def test_one_thing_for_ever_is_no_answer(stuck: Path, tmp_path: Path, here: Here) -> None:  # noqa: F811
    done = here("build", stuck, "--target", "cpu", "-o", tmp_path / "bundle")
    assert done.returncode == 5
    assert "'What is the capital of France?': expected an answer, found a repetition: 'xxx" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("hint: ")
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_may_let_it_pass(stuck: Path, tmp_path: Path, here: Here) -> None:  # noqa: F811
    (tmp_path / "own.toml").write_text('name = "own"\nsummary = "x"\n[gate]\nanswers = false\n')
    words = ("--recipe", tmp_path / "own.toml", "--target", "cpu", "-o", tmp_path / "bundle")
    done = here("build", stuck, *words)
    assert done.returncode == 0, done.stderr
    assert "probe: 'What is the capital of France?': 'xxxxxxxx" in done.stdout


def test_the_demos_answer_is_shown(tmp_path: Path, here: Here) -> None:  # noqa: F811
    done = here("build", "demo", "--target", "cpu", "-o", tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    probe = read_manifest(tmp_path / "bundle").probe
    assert probe is not None
    said = " ".join(done.stdout.split())
    assert f"probe: {probe.prompt!r}: {probe.expected!r}" in said
    assert np.all([len(line) <= 80 for line in done.stdout.splitlines()[:-1]])
