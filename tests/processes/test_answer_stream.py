"""A library that prints when its process ends spoils no answer of a process of ours.

The library is the C library itself: what is printed with it waits in its buffer until the process ends, as in
`# LIBNATIVE: …` of QNN's, which came behind the answer wherever PYTHONUNBUFFERED was not set.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from edgephi.build.verify import run_engine
from edgephi.bundle.manifest import read_manifest
from edgephi.errors import CannotServeError
from edgephi.export.qnn.compiler import compile_graphs
from edgephi.machine.measurement import BenchRequest
from edgephi.runtime.engines.availability import engine_states
from edgephi.runtime.proof.logits import AskedPassage
from edgephi.runtime.proof.measure import measure
from edgephi.store.disk.layout import Layout
from edgephi.store.environments.environment import choose_runtime

_LIBRARY = """
import ctypes
ctypes.CDLL(None).puts(b"# LIBNATIVE: what nobody asked for")
"""


@pytest.fixture(autouse=True)
def talkative_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python that is started prints when it ends."""
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_LIBRARY)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    printed = subprocess.check_output([sys.executable, "-c", "print('answer')"], text=True)
    assert printed == "answer\n# LIBNATIVE: what nobody asked for\n"


def test_in_the_proof_of_a_bundle(demo_bundle: Path, tmp_path: Path) -> None:
    computed = run_engine(
        demo_bundle, [AskedPassage((1, 2, 3))], None, tmp_path / "logits", lambda _bytes: None
    )
    assert computed.provider == "cpu"


def test_in_what_a_bench_measured(demo_bundle: Path) -> None:
    assert len(measure(demo_bundle, BenchRequest((4,), 2)).speeds) == 1


def test_in_why_a_bench_failed(demo_bundle: Path) -> None:
    with pytest.raises(CannotServeError, match="found 'abacus'"):
        measure(demo_bundle, BenchRequest((4,), 2, provider="abacus"))


def test_in_which_engines_there_are() -> None:
    states = engine_states({"onnxruntime-genai": ["cpu"]})
    assert states["onnxruntime-genai"].problems == {"cpu": ""}


def test_in_which_python_runs_a_bundle(demo_bundle: Path, tmp_path: Path) -> None:
    runtime = choose_runtime(Layout(tmp_path / "store"), read_manifest(demo_bundle))
    assert runtime.interpreter == sys.executable


def test_in_the_versions_that_compiled_for_an_npu(tmp_path: Path) -> None:
    """The compiler's process is asked for no graph at all: it loads its libraries, and answers."""
    pytest.importorskip("onnxruntime_qnn")
    compiled = compile_graphs(tmp_path, [], "none.bin", {}, where="here")
    assert compiled.onnxruntime_qnn
