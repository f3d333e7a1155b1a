"""A bundle of a tiny model that sees, built when it is first asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import read_target
from edgephi.steps import silent
from tests.tiny_phi3_v import write_tiny_phi3_v


@pytest.fixture(scope="session")
def seeing_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint: tiles of 56 pixels, of four tokens each."""
    return write_tiny_phi3_v(tmp_path_factory.mktemp("seeing") / "tiny")


@pytest.fixture(scope="session")
def seeing_bundle(seeing_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle for the target `cpu`, not verified."""
    recipe, output = read_recipe("default"), tmp_path_factory.mktemp("seeing") / "bundle"
    model = str(seeing_checkpoint)
    request = BuildRequest(model=model, target=read_target("cpu"), recipe=recipe, output=output, verify="off")
    build(request, find_checkpoint(model, recipe, None, progress=False), silent)
    return output
