"""Real registries on this machine, and bundles to put into them."""

import dataclasses
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgephi.bundle.chunks import ChunkHashes, cut
from edgephi.bundle.unfinished import write_manifest
from edgephi.flash.oci.credentials import PASSWORD_VARIABLE, USER_VARIABLE
from tests.bundle.tiny import write_tiny_bundle
from tests.cli.conftest import edgephi  # noqa: F401 - a fixture
from tests.flash.oci.registry_server import HTPASSWD, RegistryServer, serve_registry

MakeBundle = Callable[..., Path]
WEIGHTS = "model/model.onnx.data"


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """A registry that asks nobody who they are. Each test uses names of its own in it."""
    with serve_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """A registry that wants user and password, for everything."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "htpasswd").write_text(HTPASSWD)
    with serve_registry(folder, htpasswd={"realm": "guarded", "path": str(folder / "htpasswd")}) as server:
        yield server


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name in a registry that no other test uses."""
    return "tests/" + "".join(
        letter if letter.isalnum() else "-" for letter in request.node.name.lower()
    ).strip("-")


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No credentials of whoever runs the tests."""
    for variable in (USER_VARIABLE, PASSWORD_VARIABLE, "DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path_factory.mktemp("docker")))


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Write a bundle with random weights, the same for the same `seed`, and a table of their chunks.

    `changed`: of these mebibytes of the weights, every byte is another one.
    """

    def make(
        folder: str = "bundle", *, mebibytes: int = 3, seed: int = 0, changed: tuple[int, ...] = ()
    ) -> Path:
        weights = bytearray(random.Random(seed).randbytes(mebibytes << 20))
        for place in changed:
            part = slice(place << 20, (place + 1) << 20)
            weights[part] = bytes(255 - byte for byte in weights[part])
        files = {
            "model/genai_config.json": b"{}",
            "model/empty.txt": b"",
            "model/same_as_the_config.json": b"{}",
            WEIGHTS: bytes(weights),
        }
        manifest = write_tiny_bundle(tmp_path / folder, files)
        listed = [dataclasses.replace(entry, chunks=_chunks(files[entry.path])) for entry in manifest.files]
        write_manifest(tmp_path / folder, dataclasses.replace(manifest, files=tuple(listed)))
        return tmp_path / folder

    return make


def _chunks(data: bytes) -> tuple[str, ...]:
    hashes = ChunkHashes(cut(len(data)))
    hashes.update(memoryview(data))
    return hashes.table()


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {
        os.fspath(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
