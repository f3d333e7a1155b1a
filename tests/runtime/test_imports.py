"""The wall: what runs on the device must not load the build side, nor an engine before it is needed."""

import json
import subprocess
import sys

import pytest

ENGINE_SIDE = {"onnxruntime_genai", "onnxruntime", "numpy"}
BUILD_SIDE = {"torch", "onnx", "transformers", "tokenizers", "safetensors", "huggingface_hub"}
BUILD_ROOMS = {
    "edgephi.declared",
    "edgephi.checkpoint",
    "edgephi.quantize",
    "edgephi.reference",
    "edgephi.export",
    "edgephi.demo",
    "edgephi.build",
    "edgephi.bundle.unfinished",
}


def modules_after(code: str) -> set[str]:
    """Every module that a fresh Python has loaded after `code`."""
    ending = "\nimport json, sys; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr))


@pytest.mark.parametrize(
    "code",
    [
        "import edgephi.runtime",
        "import edgephi.runtime.session, edgephi.runtime.engines.onnxruntime_genai, edgephi.bundle.files",
        "import edgephi.machine.host, edgephi.machine.bandwidth, edgephi.runtime.engines.availability",
        "import edgephi.runtime.proof.measure, edgephi.runtime.proof.bench",
        "import edgephi.cli.run, edgephi.cli.inspect, edgephi.cli.doctor, edgephi.cli.bench",
        "from edgephi.cli.main import cli; cli.main(['--help'], standalone_mode=False)",
    ],
)
def test_light_imports(code: str) -> None:
    loaded = modules_after(code)
    assert not loaded & (ENGINE_SIDE | BUILD_SIDE | BUILD_ROOMS)


def test_the_engines_process_brings_only_what_it_needs() -> None:
    """Each of these is a megabyte, more or less, of a device's memory."""
    loaded = modules_after("import edgephi.server.engine.worker, edgephi.runtime.engines.onnxruntime_genai")
    assert not loaded & {"asyncio", "logging", "importlib.metadata", "email", "_hashlib", "psutil", "click"}


def test_the_runtime_knows_no_command_line() -> None:
    loaded = modules_after("import edgephi.runtime")
    assert not {name for name in loaded if name == "click" or name.startswith("edgephi.cli")}


def test_help_imports_no_command() -> None:
    loaded = modules_after("from edgephi.cli.main import cli; cli.main(['--help'], standalone_mode=False)")
    around = {
        "edgephi.cli",
        "edgephi.cli.listing",
        "edgephi.cli.main",
        "edgephi.cli.suggestions",
        "edgephi.cli.terminal",
        "edgephi.cli.terminal.interrupts",
        "edgephi.cli.terminal.standard_streams",
    }
    assert {name for name in loaded if name.startswith("edgephi.cli")} == around
    assert "edgephi.runtime" not in loaded
