"""What a plan says of a model that sees, before anything is downloaded."""

import json

from tests.cli.conftest import Edgephi


def test_people_read_what_a_picture_takes(edgephi: Edgephi) -> None:
    """The numbers are those of the published model: 757 tokens for a square of 672 pixels."""
    shown = edgephi("plan", "phi-3.5-vision", "--target", "cpu")
    assert shown.returncode == 0, shown.stderr
    assert "images    encoder of 0.31 B parameters, int8" in shown.stdout
    assert "1:1 757, 4:3 757, 16:9 757" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_who_does_not_see_is_said(edgephi: Edgephi) -> None:
    """llama.cpp's own tools open the same file and see nothing of a picture."""
    blind = "seen by edgephi; Ollama and llama-server read words alone"
    shown = edgephi("plan", "phi-3.5-vision", "--target", "gguf").stdout
    assert blind in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert blind not in edgephi("plan", "phi-3.5-vision", "--target", "cpu").stdout
    assert blind not in edgephi("plan", "phi-3.5-mini", "--target", "gguf").stdout


def test_more_crops_are_more_tokens(edgephi: Edgephi) -> None:
    told = json.loads(edgephi("plan", "phi-3-vision-128k", "--target", "cpu", "--json").stdout)
    assert told["images"] == {
        "parameters": 312_943_616,
        "stored_as": "int8",
        "tile": 336,
        "crops": 16,
        "tokens": {"1:1": 2509, "4:3": 1921, "16:9": 2353},
    }


def test_a_model_that_does_not_see_says_nothing_of_it(edgephi: Edgephi) -> None:
    assert json.loads(edgephi("plan", "phi-3.5-mini", "--target", "cpu", "--json").stdout)["images"] is None
    assert "images" not in edgephi("plan", "phi-3.5-mini", "--target", "cpu").stdout
