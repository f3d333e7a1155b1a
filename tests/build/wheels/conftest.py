"""Bundles with real wheels, from the package index that pip is set up for."""

import functools
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgephi.build.build import Built
from edgephi.build.request import WheelsRequest
from edgephi.build.wheels.pip import run_pip
from edgephi.build.wheels.platform import read_platform
from edgephi.declared.target import read_target
from edgephi.engines.facts.registry import facts_of
from tests.build.demo import build_demo

BuildWithWheels = Callable[..., Built]


@pytest.fixture(scope="session")
def _index() -> None:
    """Skip where there is no package index. CI has one: there, a missing one is a failure."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            run_pip(["download", "--no-deps", "--dest", scratch, "idna"], scratch=Path(scratch), where="test")
        except Exception as cause:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no package index here: {cause}")


@pytest.fixture(scope="session")
def build_with_wheels(_index: None, tmp_path_factory: pytest.TempPathFactory) -> BuildWithWheels:
    """Build the demo for a target, with wheels for a platform; not measured, and each once a session."""

    @functools.cache
    def call(target_name: str, platform: str, *extras: str) -> Built:
        target = read_target(target_name)
        engine = facts_of(target.engine).provider(target.provider).extra
        wheels = WheelsRequest((read_platform(platform),), (engine, *extras), "serve")
        return build_demo(target, tmp_path_factory.mktemp("wheels") / "bundle", verify="off", wheels=wheels)

    return call


def without_network() -> list[str]:
    """The words before a command that cut it off from every network; none where that is not allowed."""
    words = ["unshare", "--user", "--map-root-user", "--net"]
    try:
        allowed = subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    return words if allowed else []
