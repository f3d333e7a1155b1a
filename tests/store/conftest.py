"""Bundles to install, and stores to install them into."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from edgephi.bundle.chunks import CHUNK_BYTES
from edgephi.flash.folder import flash_folder
from edgephi.store.install import Outcome
from edgephi.store.preflight import InstallOptions
from tests.store.bundles import BALLAST, remade

UNPROVEN = InstallOptions(prove=False)
"""Leaves out the engine: for tests of what is stored, which do not wait for an answer each."""


@pytest.fixture(scope="session")
def first(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's bundle, with six chunks more that no engine opens."""
    data = random.Random(1).randbytes(6 * CHUNK_BYTES)
    return remade(demo_bundle, tmp_path_factory.mktemp("releases") / "first", {BALLAST: data})


@pytest.fixture(scope="session")
def second(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release after it: a header grew, all else moved behind it and stayed the same."""
    header = random.Random(2).randbytes(3000)
    data = header + (first / BALLAST).read_bytes()
    place = tmp_path_factory.mktemp("releases") / "second"
    return remade(first, place, {BALLAST: data}, starts={BALLAST: [len(header)]}, sequence=2)


def install(bundle: Path, root: Path, options: InstallOptions = UNPROVEN) -> Outcome:
    """Flash a bundle into the store at `root`."""
    return flash_folder(bundle, root, options)
