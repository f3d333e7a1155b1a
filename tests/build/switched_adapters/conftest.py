"""Building adapters through the command line."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.build.conftest import Here, here

__all__ = ["here"]

BuildAdapters = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def build_here(here: Here, work: Path) -> BuildAdapters:
    """Call `edgephi adapter build` in this process, for the folder `adapters` in the folder to work in."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        return here("adapter", "build", *arguments, "-o", work / "adapters")

    return call
