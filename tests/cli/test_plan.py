"""`edgephi plan`: everything about a build, without a network and without writing."""

import json
import os
from pathlib import Path

import pytest

from edgephi.recipe import recipes
from tests.cli.conftest import Edgephi, is_one_error

OFFLINE = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "HF_HOME": "/nonexistent",
}
MODELS = [recipe.name for recipe in recipes() if recipe.model.id]


@pytest.mark.parametrize("model", MODELS)
def test_every_recipe_is_planned_without_a_network(edgephi: Edgephi, tmp_path: Path, model: str) -> None:
    done = edgephi("plan", model, "--target", "cpu", "--json", env=OFFLINE, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert (document["recipe"], document["target"]) == (model, "cpu")
    assert document["context"] <= 4096
    assert document["memory_bytes"]["total"] == sum(
        size for name, size in document["memory_bytes"].items() if name != "total"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_text_fits_into_80_columns(edgephi: Edgephi) -> None:
    done = edgephi("plan", "phi-3-medium-128k", "-t", "cpu", env=OFFLINE)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    labels = [line.split("  ")[0] for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert labels == ["model", "recipe", "target", "weights", "artifact", "context", "memory", "limits"]


def test_a_device_with_known_memory_says_what_fits(edgephi: Edgephi) -> None:
    done = edgephi("plan", "phi-3.5-mini", "-t", "raspberry-pi-5-8gb", env=OFFLINE)
    assert "fits      up to " in done.stdout
    assert "tokens/s, by memory bandwidth" in done.stdout


def test_what_cannot_fit_is_refused(edgephi: Edgephi) -> None:
    done = edgephi("plan", "phi-3.5-mini", "-t", "raspberry-pi-5-8gb", "--context", 131072, env=OFFLINE)
    assert is_one_error(done, 3)
    assert "hint: --context " in done.stderr
    done = edgephi("plan", "phi-3-medium-4k", "-t", "raspberry-pi-5-8gb", env=OFFLINE)
    assert is_one_error(done, 3)


@pytest.mark.parametrize(
    "arguments", [["phi-99"], ["demo", "--revision", "main"], ["demo", "--context", "1"], ["no/such"]]
)
def test_what_cannot_be_planned(edgephi: Edgephi, arguments: list[str]) -> None:
    done = edgephi("plan", *arguments, "-t", "cpu", env=OFFLINE)
    assert is_one_error(done, {"phi-99": 4, "no/such": 6}.get(arguments[0], 2))
