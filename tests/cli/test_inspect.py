"""`edgephi inspect`."""

import json
from pathlib import Path

from edgephi.bundle.manifest import Probe, decode_manifest
from tests.bundle.tiny import tiny_manifest, write_tiny_bundle
from tests.cli.conftest import Edgephi, is_one_error


def test_shows_the_manifest_in_80_columns(edgephi: Edgephi, tmp_path: Path) -> None:
    manifest = write_tiny_bundle(tmp_path)
    done = edgephi("inspect", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    for shown in (
        "tiny-cpu, release 3",
        "3,821,079,552 parameters",
        "4.53 bits per weight",
        "2,048 tokens",
        "10.0 MB memory",
        "32000, 32001, 32007",
        "export error",
        "model/model.onnx.data    3.00 kB",
        manifest.files[0].sha256[:12],
    ):
        assert shown in done.stdout


def test_shows_what_a_device_asks_a_bundle(edgephi: Edgephi, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path, probe=Probe("Say\nyes", "Yes\n", 8, 2.5))
    shown = edgephi("inspect", tmp_path).stdout
    assert r"probe       the answer to 'Say\nyes' must begin with 'Yes\n', at 2.5" in shown
    write_tiny_bundle(tmp_path, probe=Probe("Say yes", "", 8))
    assert "the answer to 'Say yes' may be anything\n" in edgephi("inspect", tmp_path).stdout
    write_tiny_bundle(tmp_path)
    assert "probe       none: built without" in edgephi("inspect", tmp_path).stdout


def test_counts_the_chunks(edgephi: Edgephi, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path, {"model/empty": b"", "model/a": b"a", "model/large": bytes((4 << 20) + 1)})
    assert "chunks      5, and a device" in edgephi("inspect", tmp_path).stdout


def test_json_is_the_manifest(edgephi: Edgephi, tmp_path: Path) -> None:
    manifest = write_tiny_bundle(tmp_path)
    done = edgephi("inspect", "--json", tmp_path)
    assert decode_manifest(done.stdout.encode()) == manifest
    assert done.stderr == ""


def test_a_real_bundle(edgephi: Edgephi, demo_bundle: Path) -> None:
    done = edgephi("inspect", demo_bundle)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_bad_bundles(edgephi: Edgephi, tmp_path: Path) -> None:
    assert is_one_error(edgephi("inspect", tmp_path / "none"), 4)
    assert is_one_error(edgephi("inspect", tmp_path), 4)
    write_tiny_bundle(tmp_path, schema="edgephi.bundle/9")
    done = edgephi("inspect", tmp_path)
    assert is_one_error(done, 4)
    assert "expected schema 'edgephi.bundle/1', found 'edgephi.bundle/9'" in done.stderr
    assert json.loads((tmp_path / "bundle.json").read_text())["name"] == tiny_manifest().name
