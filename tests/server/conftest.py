"""One server that most tests share."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.cli.conftest import edgephi  # noqa: F401 - a fixture
from tests.server.serving import Server, serving

CONTEXT = 512


@pytest.fixture(scope="session")
def server(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo bundle behind a server with the usual options."""
    with serving(demo_bundle, tmp_path_factory.mktemp("server"), "--context", CONTEXT) as running:
        yield running
        assert "Traceback" not in running.log
        assert "bug in edgephi" not in running.log


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    """The client that applications use."""
    return server.client()
