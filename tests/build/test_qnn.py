"""The whole way to a bundle for Qualcomm's NPU: what a build writes, proves and refuses."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgephi.build.build import Built
from edgephi.build.verify import NOT_ON_PROVIDER
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import read_target
from edgephi.errors import DoesNotFitError
from tests.build.demo import build_demo
from tests.export.qnn.answers import held_out_answers
from tests.installs import installs

DEMO = read_recipe("demo")
RECIPE = dataclasses.replace(DEMO, probe=dataclasses.replace(DEMO.probe, prompt=""))  # asks nothing


def build_for(soc: str, output: Path) -> Built:
    target = dataclasses.replace(read_target("qnn"), soc=soc)
    return build_demo(target, output, recipe=RECIPE, context=96)


@pytest.fixture(scope="module", params=["snapdragon-8-gen-3", "qcs6490"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_for(request.param, tmp_path_factory.mktemp("qnn") / "bundle")


class TestCertificate:
    def test_the_htp_computes_what_the_reference_with_its_rounding_does(self, built: Built) -> None:
        error = built.manifest.certificate.export_error
        assert error is not None
        assert error.kl_mean < (5e-5 if "qcs" in built.plan.target.soc else 1e-6)

    def test_all_that_rounding_costs_is_within_the_demo_s_gate(self, built: Built) -> None:
        loss, whole = (
            built.manifest.certificate.quantisation_loss,
            built.manifest.certificate.end_to_end,
        )
        assert loss is not None
        assert whole is not None
        assert loss.kl_mean < 0.01
        assert whole.kl_mean < 0.01
        assert whole.top1 > 0.9

    def test_says_that_an_emulator_computed_it(self, built: Built) -> None:
        assert built.manifest.certificate.provider == "htp-emulation"
        assert built.manifest.certificate.note.startswith(NOT_ON_PROVIDER)


class TestBundle:
    def test_names_the_chip_and_the_compiler(self, built: Built) -> None:
        config = json.loads((built.folder / "model" / "qnn.json").read_text())
        assert config["soc"]["name"] == built.plan.target.soc
        assert config["qairt"].startswith("2.")
        assert f"--soc {built.plan.target.soc}" in built.manifest.provenance.command

    def test_holds_the_binaries_and_the_graphs_to_rebuild_them(self, built: Built) -> None:
        paths = {entry.path for entry in built.manifest.files}
        for name in ("part_0.bin", "head.bin", "graphs/part_0_prefill.onnx", "graphs/weights.data"):
            assert f"model/{name}" in paths

    def test_counts_the_weights_of_binaries_and_graphs(self, built: Built) -> None:
        """The room that a build asks for is that of both."""
        planned = built.plan.artifact_bytes
        assert planned < built.manifest.requires.disk_bytes


def test_a_disk_without_room_for_both_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2_500_000))
    with pytest.raises(DoesNotFitError):
        build_for("snapdragon-8-gen-3", tmp_path / "bundle")


def test_a_build_without_the_compiler_says_what_to_install(tmp_path: Path) -> None:
    blocked = (
        "import importlib.util, sys\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: "
        "None if name == 'onnxruntime_qnn' else real(name, *rest)\n"
        "from edgephi.cli.main import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", blocked, "build", "demo", "--target", "qnn", "-o", str(tmp_path / "b")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert installs(done.stderr, "build", "qnn")
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_the_demo_answers_held_out_commands_as_the_cpu_s_bundle_does(tmp_path: Path) -> None:
    """A fortieth of them; all are measured by `python -m tests.bench.qnn answers`."""
    found = held_out_answers(tmp_path, every=40)
    assert found.commands >= 15
    assert found.qnn >= found.bf16 - 0.03
    assert found.same_as_cpu >= 0.9
