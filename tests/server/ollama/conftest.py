"""One server that speaks Ollama's API too."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.serving import Server, serving


@pytest.fixture(scope="package")
def ollama_server(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo bundle, asked in Ollama's way."""
    folder = tmp_path_factory.mktemp("ollama")
    with serving(demo_bundle, folder, "--context", 512, "--ollama", "--system", "be brief") as server:
        yield server
        assert "Traceback" not in server.log
