"""One checkpoint, one recipe, every engine that runs here."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.bundle.manifest import read_manifest
from edgephi.declared.recipe import QualityGate, Quant, Recipe
from edgephi.declared.target import read_target
from edgephi.runtime.adapter import Engine, open_engine
from edgephi.steps import silent

PROVIDER = "cpu"
TARGETS = ("cpu", "cuda", "openvino", "mlx", "gguf")
"""Every target of another engine or another graph; on this provider they all run here."""

RECIPE = Recipe(
    name="agreement",
    summary="what every format can hold exactly",
    quant=Quant(method="rtn", bits=4, group_size=32, symmetric=True),
    gate=QualityGate(),
    evaluation="device",
)

Bundle = Callable[[str], Path]


def build_for(target: str, model: str, folder: Path, *, context: int | None = None) -> Path:
    """Build `model` for a target with the recipe above, unverified: what is wrong shows in these tests."""
    request = BuildRequest(
        model=model,
        target=read_target(target),
        recipe=RECIPE,
        output=folder,
        verify="off",
        context=context,
    )
    build(request, find_checkpoint(model, RECIPE, None, progress=False), silent)
    return folder


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo's bundle for a target, built when it is first asked for."""
    folder = tmp_path_factory.mktemp("agreement")

    def bundle(target: str) -> Path:
        place = folder / target
        return place if place.exists() else build_for(target, "demo", place)

    return bundle


def engine_of(bundle: Path) -> Engine:
    """The bundle's engine on the CPU."""
    return open_engine(bundle, read_manifest(bundle), provider=PROVIDER)
