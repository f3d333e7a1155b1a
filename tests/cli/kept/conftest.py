"""A home of one's own, in which things are kept."""

import hashlib
import os
from pathlib import Path

import pytest

MODEL = "owner/model"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, which the hub's client takes for its cache's home too."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_download(home: Path, model: str = MODEL, data: bytes = bytes(1000)) -> Path:
    """A download as the hub's client lays it out: blobs by their hashes, and links to them in a snapshot."""
    folder = home / ".cache/huggingface/hub" / f"models--{model.replace('/', '--')}"
    blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
    snapshot = folder / "snapshots" / ("0" * 40)
    for each in (blob.parent, snapshot, folder / "refs"):
        each.mkdir(parents=True)
    blob.write_bytes(data)
    (folder / "refs/main").write_text("0" * 40)
    (snapshot / "model.safetensors").symlink_to(os.path.relpath(blob, snapshot))
    return folder
