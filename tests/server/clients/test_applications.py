"""The real clients of applications, a script each, in an environment of their own."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edgephi.runtime
from edgephi.bundle.manifest import read_manifest
from tests.server.clients.conftest import PythonWith
from tests.server.serving import PATIENCE, Server, serving

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PROMPT = "turn on the kitchen light"
Told = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def both(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo behind a server that speaks both APIs."""
    folder = tmp_path_factory.mktemp("applications")
    with serving(demo_bundle, folder, "--context", 2048, "--ollama") as server:
        yield server
        assert "Traceback" not in server.log


@pytest.fixture(scope="module")
def told(both: Server, python_with: PythonWith) -> Told:
    """What a script prints that is told the server's address."""
    python = python_with(HERE / "applications.txt")

    def run(script: str) -> dict[str, Any]:
        command = [str(python), str(HERE / "scripts" / f"{script}.py"), both.url]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr[-4000:]
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


@pytest.fixture(scope="module")
def expected(demo_bundle: Path) -> str:
    """The answer to PROMPT without any server."""
    return edgephi.runtime.load(demo_bundle).generate(PROMPT).text


def test_ollama(told: Told, expected: str, demo_bundle: Path) -> None:
    found = told("ollama_client")
    assert found["model"] == f"{read_manifest(demo_bundle).name}:latest"
    assert found["loaded"] == [found["model"]] and found["size"] > 0
    assert "completion" in found["capabilities"]
    assert found["chat"] == found["generated"] == found["asynchronous"] == expected
    assert "".join(found["stream"]) == expected and len(found["stream"]) > 3
    assert found["reason"] == "stop" and found["answered"]
    assert all(name == "light_on" and set(arguments) == {"room"} for name, arguments in found["calls"])
    assert found["formatted"] in ({"room": "kitchen"}, {"room": "bath"})
    status, message = found["missing"]
    assert status == 404 and "llama3" in message
