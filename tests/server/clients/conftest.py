"""Environments of clients, made once in pytest's cache."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client_environment import client_environment

PythonWith = Callable[[Path], Path]


@pytest.fixture(scope="session")
def python_with(pytestconfig: pytest.Config) -> PythonWith:
    """The Python of an environment with what a file asks for; skips where it cannot be had."""

    def python(requirements: Path) -> Path:
        try:
            return client_environment(pytestconfig.cache.mkdir("clients"), requirements)
        except subprocess.CalledProcessError as cause:
            pytest.skip(f"{requirements.name} cannot be had: {cause.cmd[0]} ended with {cause.returncode}")

    return python
