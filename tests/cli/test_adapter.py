"""`edgephi adapter build`, and what every other command makes of an artifact of adapters and of a whole."""

import dataclasses
import json
import shutil
from pathlib import Path

import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.bundle.manifest import decode_manifest, read_manifest
from edgephi.bundle.unfinished import write_manifest
from edgephi.flash.signing.sign import sign_bundle
from tests.build.switched_adapters.demo_adapters import ASKED
from tests.cli.conftest import Edgephi, is_one_error
from tests.store.bundles import entry_of, flip_bit

OPPOSITE = "model/adapters/opposite.onnx_adapter"


@pytest.fixture(scope="module")
def whole(demo_bundle: Path, demo_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base and adapters in one folder, as a device has them."""
    folder = shutil.copytree(demo_bundle, tmp_path_factory.mktemp("whole") / "bundle")
    return Path(shutil.copytree(demo_artifact, folder, dirs_exist_ok=True))


@pytest.fixture
def artifact(demo_artifact: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(demo_artifact, tmp_path / "artifact"))


class TestBuild:
    def test_json_is_one_document(
        self,
        edgephi: Edgephi,
        demo_bundle: Path,
        demo_adapters: dict[str, Path],
        tmp_path: Path,
    ) -> None:
        output = tmp_path / "out"
        done = edgephi("adapter", "build", demo_bundle, demo_adapters["opposite"], "-o", output, "--json")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert list(document) == ["artifact", "bytes", "answers", "manifest"]
        assert document["artifact"] == str(output)
        files = [path for path in (output / "model").rglob("*") if path.is_file()]
        assert document["bytes"] == sum(path.stat().st_size for path in files)
        assert list(document["answers"]) == ["opposite"]
        assert '"turn_on"' in document["answers"]["opposite"]
        assert decode_manifest(json.dumps(document["manifest"]).encode()) == read_manifest(output)
        assert done.stderr.splitlines()[-1].startswith("seal")

    def test_the_command_that_it_ends_with_can_be_run(
        self, edgephi: Edgephi, demo_bundle: Path, demo_artifact: Path
    ) -> None:
        done = edgephi("run", demo_bundle, "--adapter", demo_artifact, ASKED)
        assert done.returncode == 0, done.stderr
        assert '"turn_on"' in done.stdout


class TestRun:
    def test_says_which_one_answered(self, edgephi: Edgephi, whole: Path) -> None:
        for words, adapter in (((), None), (("--adapter", "opposite"), "opposite")):
            document = json.loads(edgephi("run", whole, ASKED, *words, "--json").stdout)
            assert document["adapter"] == adapter
            assert ('"turn_on"' in document["text"]) == (adapter is not None)

    def test_an_artifact_beside_the_bundle_means_its_first(
        self, edgephi: Edgephi, demo_bundle: Path, demo_artifact: Path
    ) -> None:
        done = edgephi("run", demo_bundle, ASKED, "--adapter", demo_artifact, "--json")
        assert json.loads(done.stdout)["adapter"] == "opposite"

    def test_one_that_there_is_not(self, edgephi: Edgephi, whole: Path, demo_bundle: Path) -> None:
        done = edgephi("run", whole, ASKED, "--adapter", "milk")
        assert is_one_error(done, 4)
        assert "which has opposite, faint; found 'milk'" in done.stderr
        assert is_one_error(edgephi("run", demo_bundle, ASKED, "--adapter", "opposite"), 4)
        assert is_one_error(edgephi("run", demo_bundle, ASKED, "--adapter", ""), 2)

    def test_what_peft_saved_is_none_yet(
        self, edgephi: Edgephi, demo_bundle: Path, demo_adapters: dict[str, Path]
    ) -> None:
        done = edgephi("run", demo_bundle, ASKED, "--adapter", demo_adapters["faint"])
        assert is_one_error(done, 4)
        assert f"adapter build {demo_bundle} {demo_adapters['faint']} -o DIR" in done.stderr

    def test_a_chat_too(self, edgephi: Edgephi, whole: Path) -> None:
        done = edgephi("chat", whole, "--adapter", "opposite", input=f"{ASKED}\n")
        assert done.returncode == 0, done.stderr
        assert '"turn_on"' in done.stdout


class TestInspect:
    @pytest.mark.parametrize("which", ["artifact", "whole"])
    def test_shows_adapters_and_base_in_80_columns(
        self, edgephi: Edgephi, demo_artifact: Path, whole: Path, which: str
    ) -> None:
        done = edgephi("inspect", whole if which == "whole" else demo_artifact)
        assert (done.returncode, done.stderr) == (0, "")
        assert all(len(line) <= 80 for line in done.stdout.splitlines())
        said = " ".join(done.stdout.split())
        assert "adapters opposite: opposite at local; faint: faint at local, 0.05 times as strong" in said
        base = read_manifest(demo_artifact).base
        assert base is not None
        assert f"base demo-cpu, release 1, {base.sha256[:12]}" in said
        assert "\n\nwith opposite:\n" in done.stdout and "\n\nwith faint:\n" in done.stdout
        assert done.stdout.count("end to end, top-1") == 3

    def test_json_is_the_manifest(self, edgephi: Edgephi, demo_artifact: Path) -> None:
        data = edgephi("inspect", demo_artifact, "--json").stdout.encode()
        assert data == (demo_artifact / "bundle.json").read_bytes()

    def test_a_bundle_without_any_says_nothing_of_them(self, edgephi: Edgephi, demo_bundle: Path) -> None:
        said = edgephi("inspect", demo_bundle).stdout
        assert "adapters" not in said and "\nbase " not in said

    def test_the_matrices_are_the_bases(
        self, edgephi: Edgephi, demo_artifact: Path, whole: Path, demo_bundle: Path
    ) -> None:
        shown = edgephi("inspect", demo_bundle, "--tensors")
        assert shown.returncode == 0
        assert edgephi("inspect", whole, "--tensors").stdout == shown.stdout
        done = edgephi("inspect", demo_artifact, "--tensors")
        assert is_one_error(done, 4)
        assert "expected a bundle, found adapters for demo-cpu 1" in done.stderr


class TestVerify:
    def test_an_artifact_is_held_against_its_manifest(self, edgephi: Edgephi, demo_artifact: Path) -> None:
        done = edgephi("verify", demo_artifact)
        assert done.returncode == 0, done.stderr
        assert f"{demo_artifact}: 3 files as the manifest says" in done.stdout
        for described in ("opposite: opposite at local", "faint: faint at local, 0.05 times as strong"):
            assert f"\nwith {described}, measured when it was made:\n" in done.stdout
        assert json.loads(edgephi("verify", demo_artifact, "--json").stdout)["files"] == 3

    def test_a_whole_too(self, edgephi: Edgephi, whole: Path) -> None:
        done = edgephi("verify", whole, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["files"] == len(read_manifest(whole).files)

    def test_a_changed_file_is_named(self, edgephi: Edgephi, artifact: Path) -> None:
        flip_bit(artifact / OPPOSITE, 1000)
        done = edgephi("verify", artifact)
        assert done.returncode == 4
        assert f"{OPPOSITE}: expected sha256" in done.stderr

    def test_a_graph_that_leads_out_is_named(self, edgephi: Edgephi, artifact: Path) -> None:
        """Adapters bring a graph, which names the base's file of weights and must name no other."""
        path = "model/adaptable.onnx"
        graph = onnx.load(artifact / path, load_external_data=False)
        for tensor in graph.graph.initializer:
            for each in tensor.external_data:
                each.value = "/etc/passwd" if each.key == "location" else each.value
        data = graph.SerializeToString()
        (artifact / path).write_bytes(data)
        manifest = read_manifest(artifact)
        files = tuple(entry_of(path, data) if each.path == path else each for each in manifest.files)
        write_manifest(artifact, dataclasses.replace(manifest, files=files))
        done = edgephi("verify", artifact)
        assert done.returncode == 4
        assert "expected names of the bundle's own files, found '/etc/passwd'" in done.stderr

    def test_its_quality_is_measured_with_the_base(self, edgephi: Edgephi, demo_artifact: Path) -> None:
        done = edgephi("verify", demo_artifact, "--against", "demo")
        assert is_one_error(done, 4)
        assert "expected a bundle, found adapters for demo-cpu 1" in done.stderr


class TestSign:
    def test_an_artifact_is_signed_as_any_bundle(
        self, edgephi: Edgephi, artifact: Path, tmp_path: Path
    ) -> None:
        assert edgephi("keygen", tmp_path / "release").returncode == 0
        done = edgephi("sign", artifact, "--key", tmp_path / "release.key")
        assert done.returncode == 0, done.stderr
        assert (artifact / "bundle.dsse.json").is_file()
        done = edgephi("verify", artifact, "--signed-by", tmp_path / "release.pub")
        assert done.returncode == 0, done.stderr
        assert "signed by " in done.stdout

    def test_a_changed_one_is_not(self, edgephi: Edgephi, artifact: Path, tmp_path: Path) -> None:
        assert edgephi("keygen", tmp_path / "release").returncode == 0
        flip_bit(artifact / OPPOSITE, 1000)
        assert edgephi("sign", artifact, "--key", tmp_path / "release.key").returncode == 4
        assert not (artifact / "bundle.dsse.json").exists()

    def test_a_signed_one_runs_beside_its_base(
        self, edgephi: Edgephi, demo_bundle: Path, artifact: Path
    ) -> None:
        sign_bundle(artifact, Ed25519PrivateKey.generate())
        assert '"turn_on"' in edgephi("run", demo_bundle, ASKED, "--adapter", artifact).stdout
