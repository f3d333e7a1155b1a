"""`edgephi plan`: everything about a build, without a network and without writing."""

import json
import os
import re
from pathlib import Path

import pytest

from edgephi.declared.recipe import recipes
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
    planned, qualities = done.stdout.split("\n\n")
    labels = [line.split("  ")[0] for line in planned.splitlines() if not line.startswith(" ")]
    assert [line.split()[0] for line in qualities.splitlines()] == ["quality", "small", "default", "best"]
    assert labels == ["model", "recipe", "target", "weights", "artifact", "context", "memory", "limits"]


def test_a_quality_is_planned_as_the_table_says(edgephi: Edgephi) -> None:
    documents = {}
    for quality in ("small", "default", "best"):
        done = edgephi("plan", "phi-4-mini", "-t", "mlx", "--quality", quality, "--json", env=OFFLINE)
        documents[quality] = document = json.loads(done.stdout)
        assert document["qualities"][quality] == {
            "bits_per_weight": document["quant"]["bits_per_weight"],
            "artifact_bytes": document["artifact_bytes"],
            "memory_bytes": document["memory_bytes"]["total"],
            "at_most": document["at_most"],
        }
    assert all(document["qualities"] == documents["small"]["qualities"] for document in documents.values())
    sizes = [document["artifact_bytes"] for document in documents.values()]
    assert sizes == sorted(sizes)
    assert [document["at_most"] for document in documents.values()] == [False, False, True]
    assert documents["best"]["quant"]["method"] == "calibrated"


def test_a_quality_that_does_not_fit_says_so(edgephi: Edgephi, tmp_path: Path) -> None:
    shown = edgephi("targets", "show", "raspberry-pi-5-8gb").stdout
    memory = re.search(r"memory_bytes = (\S+)", shown)
    assert memory is not None
    (tmp_path / "box.toml").write_text(shown.replace(memory[1], "6_900_000_000"))
    done = edgephi("plan", "phi-3.5-mini", "-t", tmp_path / "box.toml", env=OFFLINE)
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.split("\n\n")
    assert [line.split()[0] for line in last.splitlines()[1:3]] == ["small", "default"]
    assert "\nbest: phi-3.5-mini on raspberry-pi-5-8gb: needs 7.0 GB of memory" in last


def test_a_name_that_no_matrix_has(edgephi: Edgephi, tmp_path: Path) -> None:
    text = edgephi("recipes", "show", "demo").stdout + '\n[quant.keep]\ntensors = ["model.layers.7.mlp.*"]\n'
    (tmp_path / "own.toml").write_text(text)
    done = edgephi("plan", "demo", "-t", "cpu", "--recipe", tmp_path / "own.toml")
    assert is_one_error(done, 4)
    assert "expected the name of a matrix of one of 3 layers" in done.stderr


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


def test_auto_names_the_best_target_for_this_machine(edgephi: Edgephi, tmp_path: Path) -> None:
    done = edgephi(
        "plan", "phi-3-mini-4k", "-t", "auto", "--context", 512, "--json", env=OFFLINE, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    possible = [each for each in document["targets"] if each["possible"]]
    assert document["choice"] == document["targets"][0]["target"] == possible[0]["target"]
    assert document["reason"].startswith(f"{document['choice']} ")
    assert document["plan"]["target"] == document["choice"]
    assert document["plan"]["context"] == 512
    names = {each["target"] for each in document["targets"]}
    assert "cpu" in names
    assert "raspberry-pi-5-8gb" not in names  # another device, whose memory and speed are not those here
    for each in document["targets"]:
        assert each["possible"] or (each["reason"] and each["hint"])
    for each in possible:
        assert each["largest_context"] >= 512
        # Bandwidth over weights and half the cache, no more than over the weights alone.
        bound = document["machine"]["read_bytes_per_second"] / each["artifact_bytes"]
        assert 0.5 * bound < each["decode_tokens_per_second_limit"] < bound
    assert list(tmp_path.iterdir()) == []


def test_auto_in_80_columns(edgephi: Edgephi) -> None:
    done = edgephi("plan", "demo", "-t", "auto", env=OFFLINE)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert done.stdout.startswith("model    demo (")
    assert "\ncpu " in done.stdout


def test_auto_with_nothing_that_fits(edgephi: Edgephi) -> None:
    """14 billion parameters and all of their context take more than 100 GB."""
    done = edgephi("plan", "phi-3-medium-128k", "-t", "auto", "--context", 131072, env=OFFLINE)
    assert is_one_error(done, 3)
    assert "cpu: needs " in done.stderr


def test_here_holds_the_plan_against_this_machine(edgephi: Edgephi) -> None:
    done = edgephi("plan", "phi-3-mini-4k", "-t", "cpu", "--context", 256, "--here", "--json", env=OFFLINE)
    document = json.loads(done.stdout)
    assert document["largest_context"] >= 256
    assert document["decode_tokens_per_second_limit"] > 0
    plain = json.loads(edgephi("plan", "phi-3-mini-4k", "-t", "cpu", "--json", env=OFFLINE).stdout)
    assert plain["largest_context"] is plain["decode_tokens_per_second_limit"] is None


@pytest.mark.parametrize(
    "arguments", [["phi-99"], ["demo", "--revision", "main"], ["demo", "--context", "1"], ["no/such"]]
)
def test_what_cannot_be_planned(edgephi: Edgephi, arguments: list[str]) -> None:
    done = edgephi("plan", *arguments, "-t", "cpu", env=OFFLINE)
    assert is_one_error(done, {"phi-99": 4, "no/such": 6}.get(arguments[0], 2))


def test_a_plan_for_a_chip(edgephi: Edgephi) -> None:
    done = edgephi("plan", "phi-3.5-mini", "--target", "qnn", "--soc", "sm8750")
    assert done.returncode == 0
    assert "snapdragon-8-elite (SM8750), Hexagon v79" in done.stdout
    document = edgephi("plan", "phi-3.5-mini", "--target", "qnn", "--soc", "SM8750", "--json").stdout
    assert json.loads(document)["soc"] == "snapdragon-8-elite"


def test_a_chip_that_nobody_knows(edgephi: Edgephi) -> None:
    done = edgephi("plan", "demo", "--target", "qnn", "--soc", "snapdragon-8-gen-33")
    assert is_one_error(done, 4)
    assert "did you mean 'snapdragon-8-gen-3'?" in done.stderr
    assert "qcs6490, " in done.stderr


def test_a_chip_for_a_target_that_is_compiled_for_none(edgephi: Edgephi) -> None:
    done = edgephi("plan", "demo", "--target", "cpu", "--soc", "sm8650")
    assert is_one_error(done, 2)
    assert "--soc sm8650: target cpu is not compiled for a chip" in done.stderr
