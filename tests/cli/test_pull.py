"""`edgephi pull`, against a small hub on this machine."""

import json
import os
from pathlib import Path

import pytest

from tests.checkpoint.hub.server import serve_hub
from tests.cli.conftest import Edgephi, is_one_error
from tests.tiny_checkpoint import write_tiny_checkpoint

REPO = "someone/tiny-phi"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "published", layers=1, hidden=128, ffn=128)


def environment(url: str, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def test_without_a_network(edgephi: Edgephi, tmp_path: Path) -> None:
    done = edgephi("pull", "phi-3.5-mini", env=environment("http://127.0.0.1:9", tmp_path))
    assert is_one_error(done, 6), done.stderr


def test_prints_the_folder_and_nothing_else(edgephi: Edgephi, published: Path, tmp_path: Path) -> None:
    with serve_hub(REPO, published) as hub:
        done = edgephi("pull", REPO, env=environment(hub.url, tmp_path))
        assert done.returncode == 0, done.stderr
        folder = Path(done.stdout.removesuffix("\n"))
        assert (folder / "model.safetensors").read_bytes() == (published / "model.safetensors").read_bytes()
        done = edgephi("pull", REPO, "--json", env={**environment(hub.url, tmp_path), "HF_HUB_OFFLINE": "1"})
        assert json.loads(done.stdout) == {"id": REPO, "revision": hub.commit, "folder": str(folder)}


def test_no_such_revision(edgephi: Edgephi, published: Path, tmp_path: Path) -> None:
    with serve_hub(REPO, published) as hub:
        done = edgephi("pull", REPO, "--revision", "v9", env=environment(hub.url, tmp_path))
        assert is_one_error(done, 4), done.stderr


def test_what_needs_no_download(edgephi: Edgephi, published: Path) -> None:
    assert Path(edgephi("pull", "demo").stdout.strip()).name == "demo"
    assert Path(edgephi("pull", published).stdout.strip()) == published
