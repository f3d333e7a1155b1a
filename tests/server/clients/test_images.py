"""The real clients of applications about images, a script each, in an environment of their own."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgephi.runtime
from edgephi.runtime.session import Options
from tests.runtime.images.drawn import drawn, saved
from tests.server.clients.conftest import PythonWith
from tests.server.conftest import CONTEXT
from tests.server.serving import PATIENCE, Server

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
IMAGE = saved(drawn(200, 60), "PNG")
Told = Callable[[str], dict[str, Any]]


@pytest.fixture
def told(seeing_server: Server, python_with: PythonWith, tmp_path: Path) -> Told:
    """What a script prints that is told the server's address and a file."""
    python = python_with(HERE / "applications.txt")
    (tmp_path / "image.png").write_bytes(IMAGE)

    def run(script: str) -> dict[str, Any]:
        words = [python, HERE / "scripts" / f"{script}.py", seeing_server.url, tmp_path / "image.png"]
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr[-4000:]
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


@pytest.fixture
def expected(vision_bundle: Path) -> str:
    """The answer without any server."""
    session = edgephi.runtime.load(vision_bundle, context=CONTEXT)
    return session.generate("what is it?", Options(max_tokens=24), images=[IMAGE]).text


def test_ollama(told: Told, expected: str) -> None:
    found = told("ollama_images")
    assert found["path"] == found["bytes"] == found["generated"] == expected
    assert found["tokens"] > 21
    assert "vision" in found["capabilities"] and "clip" in found["families"]
    assert found["refused"].startswith("image 1: expected a JPEG, PNG")


def test_langchain(told: Told, expected: str) -> None:
    found = told("langchain_images")
    assert len(found) == 4
    assert set(found.values()) == {expected}
