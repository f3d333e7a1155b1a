"""The demo's bundle for each engine, built when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgephi.build import build, find_checkpoint
from edgephi.build_request import BuildRequest
from edgephi.recipe import read_recipe
from edgephi.steps import silent
from edgephi.target import read_target

TARGETS = {
    "cpu": "onnxruntime_genai",
    "gguf": "xllamacpp",
    "openvino": "openvino_genai",
    "mlx": "mlx.core",
}
"""A target for each engine, and the engine's module."""

DemoFor = Callable[[str], Path]


@pytest.fixture(scope="session")
def demo_for(tmp_path_factory: pytest.TempPathFactory) -> DemoFor:
    """The demo's bundle for a target, made with its own recipe and not verified."""
    folder = tmp_path_factory.mktemp("demos")

    def bundle(target: str) -> Path:
        pytest.importorskip(TARGETS[target])
        place = folder / target
        if not place.exists():
            recipe = read_recipe("demo")
            request = BuildRequest("demo", read_target(target), recipe, place, verify="off")
            build(request, find_checkpoint("demo", recipe, None, progress=False), silent)
        return place

    return bundle
