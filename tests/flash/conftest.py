"""A box that ssh reaches, and bundles to flash it with."""

import random
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgephi.bundle.chunks import CHUNK_BYTES
from tests.flash.ssh.sshd import SSHD, Sshd
from tests.store.bundles import BALLAST, remade

CHUNKS = 44
"""In the ballast of the bundle `large`."""


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Sshd]:
    """A box that has edgephi and the engine."""
    with_sshd()
    server = Sshd(tmp_path / "box")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def bare_box(tmp_path: Path) -> Iterator[Sshd]:
    """A box that has a shell and a Python, and nothing else."""
    with_sshd()
    path = tmp_path / "bare" / "bin"
    venv.create(path.parent, with_pip=False, symlinks=True)
    for entry in path.iterdir():
        if not entry.name.startswith("python"):
            entry.unlink()
    (path / "sh").symlink_to("/bin/sh")
    server = Sshd(tmp_path / "box", path=path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of a store on the box, not made yet."""
    folder = tmp_path / "device"
    folder.mkdir()
    return folder / "store"


@pytest.fixture(scope="session")
def large(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's bundle, with many chunks more that no engine opens."""
    data = random.Random(5).randbytes(CHUNKS * CHUNK_BYTES)
    return remade(demo_bundle, tmp_path_factory.mktemp("large") / "large", {BALLAST: data}, sequence=2)


def with_sshd() -> None:
    """Skip where there is no sshd to test with."""
    if SSHD is None:
        pytest.skip("needs sshd: apt-get install openssh-server")
    if sys.platform != "linux":
        pytest.skip("boxes run Linux")
