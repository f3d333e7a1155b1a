"""One server that most tests share."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import read_target
from edgephi.steps import silent
from tests.cli.conftest import edgephi  # noqa: F401 - a fixture
from tests.portable import portable
from tests.server.serving import Server, serving
from tests.tiny_phi3_v import write_tiny_phi3_v

CONTEXT = 512


@pytest.fixture(scope="session")
def server(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo bundle behind a server with the usual options."""
    with serving(demo_bundle, tmp_path_factory.mktemp("server"), "--context", CONTEXT) as running:
        yield running
        assert "Traceback" not in running.log
        assert "bug in edgephi" not in running.log


@pytest.fixture(scope="session")
def vision_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that sees, built for the target `cpu`; its answers are any tokens."""
    folder = tmp_path_factory.mktemp("vision")
    checkpoint = write_tiny_phi3_v(folder / "tiny-vision")
    recipe = dataclasses.replace(read_recipe("default"), quant=portable())
    request = BuildRequest(str(checkpoint), read_target("cpu"), recipe, folder / "bundle", verify="off")
    return build(request, find_checkpoint(str(checkpoint), recipe, None, progress=False), silent).folder


@pytest.fixture(scope="session")
def seeing_server(vision_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """That model behind a server that speaks both APIs; answers without a bound end with the context."""
    folder = tmp_path_factory.mktemp("seeing")
    with serving(vision_bundle, folder, "--context", CONTEXT, "--ollama") as running:
        yield running
        assert "Traceback" not in running.log
        assert "bug in edgephi" not in running.log


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    """The client that applications use."""
    return server.client()
