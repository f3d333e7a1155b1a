"""`--exporter upstream`: each engine's own converter writes the artifact, and ours is held against it."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgephi.bundle.manifest import Manifest, read_manifest
from edgephi.checkpoint.checkpoint import open_checkpoint
from edgephi.declared.recipe import Keep, Quant
from edgephi.declared.target import read_target
from edgephi.errors import DoesNotFitError, NotSupportedError
from edgephi.export import upstream
from edgephi.export.exporter import exporter
from tests.build.conftest import names
from tests.cli.conftest import MAIN, Edgephi, is_one_error
from tests.optimum_environment import VARIABLE, optimum_python
from tests.portable import portable

ROOT = Path(__file__).parents[2]
RECIPE = """
name = "own"
summary = "as the converters do it when they are asked for nothing"
evaluation = "device"
[model]
id = "demo"
[quant]
method = "rtn"
group_size = 32
[gate]
end_to_end_kl = 0.5
end_to_end_top1 = 0.9
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "own.toml"
    file.write_text(RECIPE)
    return file


def built(edgephi: Edgephi, recipe: Path, folder: Path, *options: str) -> Manifest:
    done = edgephi("build", "demo", "--recipe", recipe, "-o", folder, *options, "--json")
    assert done.returncode == 0, done.stderr
    return read_manifest(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "name", "provider"),
    [
        ("cpu", "onnxruntime-genai's model builder", "cpu"),
        ("openvino", "optimum-intel", "cpu"),
        ("mlx", "mlx_lm.convert", "cpu"),
    ],
)
class TestConverters:
    def test_their_bundle_runs_and_is_no_better_than_ours(
        self, edgephi: Edgephi, recipe: Path, work: Path, target: str, name: str, provider: str
    ) -> None:
        converting = edgephi
        if target == "openvino":
            python = optimum_python()
            if python is None:
                pytest.skip(f"{VARIABLE} names no environment with optimum-intel")
            # The working copy is what both environments run.
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            converting = functools.partial(edgephi, python=python, env=environment)
        theirs = built(converting, recipe, work / "theirs", "--target", target, "--exporter", "upstream")
        bits = f"embedding_bits = {theirs.quant.embedding_bits}\nhead_bits = {theirs.quant.head_bits}\n"
        recipe.write_text(RECIPE.replace("[gate]", f"{bits}[gate]"))
        ours = built(edgephi, recipe, work / "ours", "--target", target, "--method", "search")
        assert theirs.provenance.exporter.startswith(f"{name} ")
        assert "--exporter upstream" in theirs.provenance.command
        assert (theirs.certificate.export_error, theirs.certificate.quantisation_loss) == (None, None)
        assert theirs.certificate.end_to_end is not None
        assert ours.certificate.end_to_end is not None
        # On so short a text a few tokens decide which of two roundings looks better.
        assert ours.certificate.end_to_end.kl_mean < 1.25 * theirs.certificate.end_to_end.kl_mean
        answers = set()
        for bundle in ("theirs", "ours"):
            command = ("run", work / bundle, "turn on the kitchen light", "--provider", provider, "--json")
            answers.add(json.loads(edgephi(*command).stdout)["text"])
        assert len(answers) == 1


def test_an_engine_without_a_converter(edgephi: Edgephi, work: Path) -> None:
    done = edgephi("build", "demo", "--target", "gguf", "-o", work / "bundle", "--exporter", "upstream")
    assert is_one_error(done, 3)
    assert "llama.cpp has no converter that pip can install" in done.stderr
    assert names(work) == set()


def test_memory_is_checked_before_the_start(tiny: Path) -> None:
    checkpoint = open_checkpoint(tiny, id="tiny", revision="none")
    tool = upstream.upstream("onnxruntime-genai")
    needed = round(tool.peak_bytes_per_parameter * checkpoint.architecture.parameters)
    upstream.check_memory(tool, checkpoint, needed)
    with pytest.raises(DoesNotFitError, match=r"needs about .* GB of memory for tiny, .* GB are available"):
        upstream.check_memory(tool, checkpoint, needed - 1)


def exporter_of(engine: str, quant: Quant) -> upstream.UpstreamExporter:
    return upstream.UpstreamExporter(upstream.upstream(engine), exporter(engine), quant)


def test_eight_bits_are_not_asked_of_it() -> None:
    with pytest.raises(NotSupportedError, match="is asked for int4 only, found bits = 8"):
        exporter_of("mlx-lm", portable(bits=8)).check_schemes({}, read_target("mlx"))


def test_nothing_is_kept_at_more_bits() -> None:
    quant = portable(keep=Keep(("model.layers.0.mlp.down_proj",)))
    with pytest.raises(NotSupportedError, match="cannot be told what to keep at more bits"):
        exporter_of("mlx-lm", quant).check_schemes({}, read_target("mlx"))


def test_its_codes_are_not_read(tiny: Path, tmp_path: Path) -> None:
    architecture = open_checkpoint(tiny, id="tiny", revision="none").architecture
    with pytest.raises(NotSupportedError, match=r"expected codes of edgephi.* found those of mlx_lm.convert"):
        exporter_of("mlx-lm", portable()).artifact_weights(tmp_path, architecture)


def test_what_its_bundle_takes_is_what_the_engine_takes(tiny: Path) -> None:
    architecture = open_checkpoint(tiny, id="tiny", revision="none").architecture
    target = read_target("mlx")
    theirs, ours = exporter_of("mlx-lm", portable()), exporter("mlx-lm")
    assert theirs.footprint(target) == ours.footprint(target)
    assert theirs.context_limit(architecture) == ours.context_limit(architecture)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(
        NotSupportedError, match="needs onnxruntime-genai, onnx-ir, torch, transformers"
    ) as caught:
        upstream.upstream("onnxruntime-genai")
    assert "pip install " in caught.value.hint


@pytest.mark.slow
def test_a_converter_that_fails_leaves_its_output_and_nothing_else(
    edgephi: Edgephi, tiny: Path, work: Path, tmp_path: Path
) -> None:
    """The builder goes by the name of the class, which we do not read."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    config = json.loads((broken / "config.json").read_text())
    config["architectures"] = ["NoSuchForCausalLM"]
    (broken / "config.json").write_text(json.dumps(config))
    done = edgephi("build", broken, "-t", "cpu", "-o", work / "bundle", "--exporter", "upstream")
    assert done.returncode == 3
    problem, hint = done.stderr.splitlines()[-2:]
    assert problem.startswith("error: onnxruntime-genai's model builder failed: ")
    assert "is not currently supported" in problem
    log = Path(hint.rpartition(" ")[2])
    assert "Traceback" in log.read_text()
    log.unlink()
    assert names(work) == set()


@pytest.mark.slow
def test_ctrl_c_ends_the_converter_too(work: Path) -> None:
    command = [sys.executable, "-c", MAIN, "build", "demo", "-t", "cpu", "-o", str(work / "bundle")]
    with subprocess.Popen([*command, "--exporter", "upstream"], start_new_session=True) as process:
        child = ""
        while not child:
            assert process.poll() is None
            time.sleep(0.1)
            listed = subprocess.run(
                ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False
            )
            child = listed.stdout.strip()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    stop = time.monotonic() + 10
    while has_not_ended(child) and time.monotonic() < stop:
        time.sleep(0.1)
    assert not has_not_ended(child)
    assert names(work) == set()


def has_not_ended(pid: str) -> bool:
    """Whether a process runs: one that nobody has asked about yet is still listed when it has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
