"""The real clients of applications, a script each, in an environment of their own."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edgephi.runtime
from edgephi.bundle.manifest import read_manifest
from edgephi.runtime.session import Options
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
        environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # not from a web site
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PATIENCE, env=environment
        )
        assert done.returncode == 0, done.stderr[-4000:]
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


ROOMS = ("kitchen", "bath")


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
    assert found["formatted"] in [{"room": room} for room in ROOMS]
    status, message = found["missing"]
    assert status == 404 and "llama3" in message


def test_langchain(told: Told, expected: str, demo_bundle: Path) -> None:
    """Its agent calls two tools, one after the other, and answers then."""
    found = told("langchain_agent")
    assert found["text"] == "".join(found["pieces"]) == found["responses"] == expected
    assert found["parsed"] in ROOMS
    (light, room), (timer, minutes) = found["called"]
    assert (light, timer) == ("light", "timer")
    assert room in ROOMS and 1 <= minutes <= 60
    assert found["messages"] == ["human", "ai", "tool", "ai", "tool", "ai"]
    assert found["last"]
    assert found["completion"] == continued(demo_bundle)


def test_llama_index(told: Told, expected: str, demo_bundle: Path) -> None:
    found = told("llama_index_client")
    assert found["text"] == "".join(found["pieces"]) == expected
    ((name, arguments), *_) = found["calls"]
    assert name == "light" and arguments["room"] in ROOMS
    assert found["completion"] == continued(demo_bundle)


def test_litellm(told: Told, expected: str) -> None:
    found = told("lite_llm")
    assert found["text"] == "".join(found["pieces"]) == found["ollama"] == expected
    assert found["tokens"] > 5
    ((name, arguments), *_) = found["calls"]
    assert name == "light" and arguments["room"] in ROOMS


def test_llm(told: Told, expected: str) -> None:
    assert set(told("llm_command").values()) == {expected}


def continued(bundle: Path) -> str:
    """What follows a text without any server."""
    return "".join(edgephi.runtime.load(bundle).complete("turn on the", Options(max_tokens=8)))
