"""`edgephi import qnn`: context binaries that others have compiled."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgephi.build.qnn_import.bundle import import_qnn
from edgephi.bundle.manifest import read_manifest
from edgephi.bundle.unfinished import file_sha256
from edgephi.checkpoint.locate import DEMO, locate
from edgephi.errors import EdgephiError
from edgephi.steps import silent
from tests.cli.conftest import Edgephi, is_one_error

pytest.importorskip("onnxruntime_qnn")
onnx = pytest.importorskip("onnx")

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def foreign(qnn_bundle: Path, tmp_path: Path) -> Path:
    """Binaries with the least description, beside the model's configuration and tokenizer."""
    folder = tmp_path / "foreign"
    shutil.copytree(qnn_bundle / "model", folder)
    shutil.rmtree(folder / "graphs")
    shutil.copyfile(
        locate(DEMO, revision=None, progress=False).folder / "config.json", folder / "config.json"
    )
    own = json.loads((folder / "qnn.json").read_bytes())
    least = {
        "embedding": own["embedding"],
        "rope": {"file": own["rope"]["file"]},
        "logits": own["logits"],
        "parts": [
            {kind: {"wrapper": part[kind]["wrapper"]} for kind in ("prefill", "decode")}
            for part in own["parts"]
        ],
        "head": {"wrapper": own["head"]["wrapper"]},
    }
    (folder / "qnn.json").write_text(json.dumps(least))
    return folder


def change_description(folder: Path, change: Change) -> None:
    document = json.loads((folder / "qnn.json").read_bytes())
    change(document)
    (folder / "qnn.json").write_text(json.dumps(document))


def refused(folder: Path) -> str:
    """What an import of the folder is refused with."""
    with pytest.raises(EdgephiError) as caught:
        import_qnn(folder, folder.parent / "out", name=None, soc=None, sequence=1, step=silent)
    assert caught.value.exit_code == 4
    assert "\n" not in caught.value.message
    return caught.value.message


def test_the_files_tell_the_rest(edgephi: Edgephi, foreign: Path, qnn_bundle: Path, tmp_path: Path) -> None:
    done = edgephi("import", "qnn", foreign, "-o", tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    assert "not run: the emulator needs the graphs" in done.stderr
    own = json.loads((qnn_bundle / "model/qnn.json").read_bytes())
    found = json.loads((tmp_path / "bundle/model/qnn.json").read_bytes())
    for key in ("soc", "qairt", "context", "chunk", "vocabulary", "hidden", "kv_heads", "head_size", "rope"):
        assert found[key] == own[key]
    for name in ("part_0.bin", "head.bin", "embedding.bin"):
        assert file_sha256(tmp_path / "bundle/model" / name) == file_sha256(qnn_bundle / "model" / name)
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.provenance.exporter == f"imported, QAIRT {own['qairt']}"
    assert manifest.chat == read_manifest(qnn_bundle).chat
    assert edgephi("verify", tmp_path / "bundle").returncode == 0
    refused = edgephi("run", tmp_path / "bundle", "hello")
    assert is_one_error(refused, 3)
    assert "holds context binaries only" in refused.stderr


@pytest.mark.slow
def test_with_its_graphs_it_must_answer(
    edgephi: Edgephi, foreign: Path, qnn_bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(qnn_bundle / "model/graphs", foreign / "graphs")
    own = json.loads((qnn_bundle / "model/qnn.json").read_bytes())
    change_description(foreign, lambda it: it.update(parts=own["parts"], head=own["head"], weight_bits=4))
    done = edgephi("import", "qnn", foreign, "-o", tmp_path / "bundle", "--name", "tea", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["unproven"] is None
    manifest = read_manifest(tmp_path / "bundle")
    assert (manifest.name, manifest.quant.bits) == ("tea-qnn", 4)
    assert manifest.probe is not None
    assert manifest.probe.expected
    answer = edgephi("run", tmp_path / "bundle", manifest.probe.prompt, "--max-tokens", 8).stdout
    assert answer.startswith(manifest.probe.expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: it.update(context=4096), "context: expected 256, which the files say, found 4096"),
        (lambda it: it.update(qairt="2.9.0.250101000000"), "found '2.9.0.250101000000'"),
        (lambda it: it.update(soc={"name": "qcs6490"}), "found them for SM8650"),
        (lambda it: it.update(soc={"name": "sm8551"}), "did you mean 'sm8550'?"),
        (lambda it: it.pop("rope"), "found no rope"),
        (lambda it: it["head"].update(wrapper="tail.onnx"), "expected the wrapper tail.onnx, found no such"),
        (lambda it: it["parts"][0].update(binary="other.bin"), "expected the binary other.bin, found part_0"),
        (lambda it: it["embedding"].update(file="missing.bin"), "expected missing.bin, found no such file"),
        (lambda it: it.update(provider_options={"backend_path": "/tmp/own.so"}), "backend_path"),
        (lambda it: it.update(weight_bits=3), "weight_bits: expected 4 or 8, found 3"),
    ],
)
def test_a_description_that_contradicts_the_files(
    foreign: Path, tmp_path: Path, change: Change, message: str
) -> None:
    change_description(foreign, change)
    assert message in refused(foreign)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["foreign"]  # nothing is left behind


def test_the_configuration_of_another_model(foreign: Path) -> None:
    config = json.loads((foreign / "config.json").read_bytes())
    config["num_hidden_layers"] += 1
    (foreign / "config.json").write_text(json.dumps(config))
    assert "layers: expected 4, as config.json says, found 3 in the wrappers" in refused(foreign)


def test_a_graph_in_place_of_a_wrapper(foreign: Path, qnn_bundle: Path) -> None:
    shutil.copyfile(qnn_bundle / "model/graphs/head.onnx", foreign / "head.onnx")
    assert "head.onnx: expected one operator, com.microsoft.EPContext" in refused(foreign)


def test_binaries_of_two_versions(foreign: Path) -> None:
    model = onnx.load(foreign / "head.onnx")
    for attribute in model.graph.node[0].attribute:
        if attribute.name == "ep_sdk_version":
            attribute.s = b"v2.40.0.250101000000"
    onnx.save(model, foreign / "head.onnx")
    message = refused(foreign)
    assert "head.bin: expected QAIRT 2.40.0.250101000000, as its wrapper says, found 2." in message


def test_no_folder_and_no_description(edgephi: Edgephi, foreign: Path, tmp_path: Path) -> None:
    assert is_one_error(edgephi("import", "qnn", tmp_path / "none", "-o", tmp_path / "bundle"), 4)
    (foreign / "qnn.json").unlink()
    done = edgephi("import", "qnn", foreign, "-o", tmp_path / "bundle")
    assert done.returncode == 4
    assert "expected a description in qnn.json" in done.stderr
