"""`edgephi verify`: files against the manifest, then quality against a checkpoint."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgephi.bundle.manifest import read_manifest
from tests.cli.conftest import Edgephi, is_one_error
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(demo_bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


def flip_a_bit(bundle: Path) -> None:
    with (bundle / "model/model.onnx.data").open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))


def link_out(bundle: Path) -> None:
    shutil.move(bundle / "model/tokenizer.json", bundle.parent)
    (bundle / "model/tokenizer.json").symlink_to(bundle.parent / "tokenizer.json")


def change_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        document = json.loads((bundle / "bundle.json").read_text())
        change(document)
        (bundle / "bundle.json").write_text(json.dumps(document))

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed bit": (flip_a_bit, "model/model.onnx.data: expected sha256"),
    "a missing file": (lambda b: (b / "model/model.onnx").unlink(), "model/model.onnx: expected a file of"),
    "an extra file": (lambda b: (b / "model/x.so").touch(), "model/x.so: expected only the files"),
    "a link": (link_out, "model/tokenizer.json: expected a plain file, found a symbolic link"),
    "a path that leaves": (
        change_manifest(lambda d: d["files"].append({"path": "../x", "size": 1, "sha256": "0" * 64})),
        "file path '../x' leaves the bundle's folder",
    ),
    "an absolute path": (
        change_manifest(lambda d: d["files"].append({"path": "/etc/passwd", "size": 1, "sha256": "0" * 64})),
        "file path '/etc/passwd' leaves the bundle's folder",
    ),
    "a cut manifest": (lambda b: os.truncate(b / "bundle.json", 900), "bundle.json: expected JSON"),
    "an empty manifest": (lambda b: os.truncate(b / "bundle.json", 0), "bundle.json: expected JSON"),
    "no manifest": (lambda b: (b / "bundle.json").unlink(), "expected a bundle, found no bundle.json in it"),
    "an unknown key": (change_manifest(lambda d: d.update(nmae="x")), "unknown key 'nmae'"),
    "another schema": (
        change_manifest(lambda d: d.update(schema="edgephi.bundle/2")),
        "expected schema 'edgephi.bundle/1', found 'edgephi.bundle/2'",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(edgephi: Edgephi, bundle: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    damage(bundle)
    done = edgephi("verify", bundle)
    assert is_one_error(done, 4), done.stderr
    assert message in done.stderr


def test_a_good_bundle(edgephi: Edgephi, demo_bundle: Path) -> None:
    done = edgephi("verify", demo_bundle)
    assert done.returncode == 0
    files = len(read_manifest(demo_bundle).files)
    assert f"{demo_bundle}: {files} files as the manifest says\n\nmeasured when it was built:" in done.stdout
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["check"]


def test_json(edgephi: Edgephi, demo_bundle: Path) -> None:
    document = json.loads(edgephi("verify", demo_bundle, "--json").stdout)
    assert list(document) == ["bundle", "files", "signer", "measured_now", "certificate", "report"]
    assert document["measured_now"] is False
    assert document["certificate"]["tokens"] == read_manifest(demo_bundle).certificate.tokens


def test_against_the_checkpoint_it_measures_again(edgephi: Edgephi, demo_bundle: Path) -> None:
    done = edgephi("verify", demo_bundle, "--against", "demo")
    assert done.returncode == 0
    assert "measured now:" in done.stdout
    built = edgephi("verify", demo_bundle)
    assert done.stdout.splitlines()[-4:] == built.stdout.splitlines()[-4:]


def test_against_a_checkpoint_of_another_shape(edgephi: Edgephi, demo_bundle: Path, tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "phi", layers=1)
    done = edgephi("verify", demo_bundle, "--against", folder)
    assert (done.returncode, done.stdout) == (4, "")
    parameters = f"{read_manifest(demo_bundle).model.parameters:,}"
    assert f"expected the {parameters} parameters that the bundle's model has, found" in done.stderr


def test_against_other_weights_of_the_same_shape(edgephi: Edgephi, tmp_path: Path) -> None:
    one, other = (
        write_tiny_checkpoint(tmp_path / str(seed), layers=1, seed=seed, std=0.1) for seed in (1, 2)
    )
    assert edgephi("build", one, "-t", "cpu", "-o", tmp_path / "b").returncode == 0
    done = edgephi("verify", tmp_path / "b", "--against", other)
    assert (done.returncode, done.stdout) == (5, "")
    assert "quantisation loss: mean KL" in done.stderr


def test_against_no_model(edgephi: Edgephi, demo_bundle: Path) -> None:
    done = edgephi("verify", demo_bundle, "--against", "phi-99")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.splitlines()[-1].startswith("hint: ")
