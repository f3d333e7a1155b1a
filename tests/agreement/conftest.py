"""One checkpoint, one recipe, every engine that runs here."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.bundle.certificate import QualityGate
from edgephi.bundle.manifest import read_manifest
from edgephi.declared.recipe import Recipe
from edgephi.declared.target import Target, read_target, targets
from edgephi.engines.facts.registry import facts_of
from edgephi.runtime.adapter import Engine, open_engine
from edgephi.steps import silent
from tests.export.oracle import Floats
from tests.portable import portable

PROVIDER = "cpu"


def weights_of(target: str, folder: Path) -> dict[str, Floats]:
    """The weights of the artifact in `folder`, read with its format's own library and nothing of ours.

    Float32, under the checkpoint's names.
    """
    read: Callable[[Path], dict[str, Floats]] = importlib.import_module(_reader(target)).weights_of
    return read(folder)


def _reader(target: str) -> str:
    return f"tests.export.{facts_of(read_target(target).engine).exporter}.weights"


def _is_compared(target: Target) -> bool:
    return (
        not target.board
        and PROVIDER in facts_of(target.engine).providers
        and importlib.util.find_spec(_reader(target.name)) is not None
    )


TARGETS = ["cpu", *(each.name for each in targets() if _is_compared(each) and each.name != "cpu")]
"""Every target, `cpu` first, that runs on this provider and whose weights a library of its format reads.

Of the devices with a target of their own none: they have the artifact of another target.
"""

RECIPE = Recipe(
    name="agreement",
    summary="what every format can hold exactly",
    quant=portable(method="rtn", bits=4, group_size=32, symmetric=True),
    gate=QualityGate(),
    evaluation="device",
)

Bundle = Callable[[str], Path]


def build_for(
    target: str, model: str, folder: Path, *, context: int | None = None, recipe: Recipe = RECIPE
) -> Path:
    """Build `model` for a target, unverified: what is wrong shows in these tests."""
    request = BuildRequest(
        model=model,
        target=read_target(target),
        recipe=recipe,
        output=folder,
        verify="off",
        context=context,
    )
    build(request, find_checkpoint(model, recipe, None, progress=False), silent)
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
