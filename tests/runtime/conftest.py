"""The demo's bundle for each engine, built when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.build.demo import build_demo

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
            build_demo(target, place, verify="off")
        return place

    return bundle
