"""What tests of several rooms share: bundles that our own builder made, each built once a session."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgephi.build import BuildRequest, Built, build, find_checkpoint
from edgephi.recipe import read_recipe
from edgephi.target import read_target


@contextlib.contextmanager
def silent_step(_title: str, _size: int) -> Iterator[Callable[[int], None]]:
    """A step of a build that nobody watches."""
    yield lambda _units: None


@pytest.fixture(scope="session")
def built_demo(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The demo checkpoint, built and verified for the target `cpu` as a user would."""
    recipe = read_recipe("demo")
    request = BuildRequest(
        model="demo",
        target=read_target("cpu"),
        recipe=recipe,
        output=tmp_path_factory.mktemp("demo") / "bundle",
    )
    return build(request, find_checkpoint("demo", recipe, None, progress=False), silent_step)


@pytest.fixture(scope="session")
def demo_bundle(built_demo: Built) -> Path:
    """The folder of the demo's bundle."""
    return built_demo.folder
