"""`edgephi inspect`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgephi.bundle.manifest import Provenance, decode_manifest
from edgephi.bundle.probe import Probe
from edgephi.bundle.quantisation import QUANTISATION_NAME, encode_quantisation
from edgephi.commands import edgephi_command
from tests.build.conftest import Here, here  # noqa: F401 - a fixture
from tests.bundle.tiny import FILES, tiny_manifest, write_tiny_bundle
from tests.cli.conftest import Edgephi, is_one_error
from tests.cli.pages.quantised import LAYERS, WORST, quantised, unweighted


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


class TestTensors:
    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Path:
        write_tiny_bundle(tmp_path / "b", {**FILES, QUANTISATION_NAME: encode_quantisation(quantised())})
        return tmp_path / "b"

    def rows(self, shown: str) -> list[list[str]]:
        """The cells of every tensor's row."""
        return [line.split() for line in shown.splitlines() if line.startswith("model.")]

    def test_the_worst_are_shown_in_80_columns(self, edgephi: Edgephi, bundle: Path) -> None:
        done = edgephi("inspect", bundle, "--tensors")
        assert (done.returncode, done.stderr) == (0, "")
        assert all(len(line) <= 80 for line in done.stdout.splitlines())
        rows = self.rows(done.stdout)
        assert len(rows) == 20
        assert rows[0] == [WORST, "int4", "g32", "1.9%", "0.67%", "0.52%", "6000"]
        assert "the worst 20 of 49; --all shows the others" in done.stdout

    def test_all_of_them(self, edgephi: Edgephi, bundle: Path) -> None:
        shown = edgephi("inspect", bundle, "--tensors", "--all").stdout
        assert {row[0] for row in self.rows(shown)} == {tensor.name for tensor in quantised().tensors}
        assert self.rows(shown)[-1] == ["model.embed_tokens", "int8", "g32", "2.5%", "0.0040%", "-", "-"]
        assert "the worst" not in shown

    @pytest.mark.parametrize(
        ("order", "worst"),
        [
            ("output", WORST),
            ("weighted", f"model.layers.{LAYERS - 1}.mlp.gate_up_proj"),
            ("plain", f"model.layers.{LAYERS - 1}."),
        ],
    )
    def test_in_another_order(self, edgephi: Edgephi, bundle: Path, order: str, worst: str) -> None:
        assert self.rows(edgephi("inspect", bundle, "--tensors", "--sort", order).stdout)[0][0].startswith(
            worst
        )

    def test_json_is_the_file(self, edgephi: Edgephi, bundle: Path) -> None:
        done = edgephi("inspect", bundle, "--tensors", "--json")
        assert done.stdout.encode() == (bundle / QUANTISATION_NAME).read_bytes()

    def test_a_page_is_written_too(self, edgephi: Edgephi, bundle: Path, tmp_path: Path) -> None:
        done = edgephi("inspect", bundle, "--html", tmp_path / "page.html")
        assert done.stdout == edgephi("inspect", bundle).stdout
        assert WORST in (tmp_path / "page.html").read_text(encoding="utf-8")
        again = edgephi("inspect", bundle, "--tensors", "--json", "--html", tmp_path / "page.html")
        assert again.returncode == 0, "a page of the same name is written anew"
        assert json.loads(again.stdout)["schema"] == "edgephi.quantisation/1"

    def test_without_inputs_the_plain_error_counts(self, edgephi: Edgephi, tmp_path: Path) -> None:
        write_tiny_bundle(tmp_path, {QUANTISATION_NAME: encode_quantisation(unweighted(quantised()))})
        shown = edgephi("inspect", tmp_path, "--tensors").stdout
        assert self.rows(shown)[0][-3:] == ["0.71%", "-", "-"]
        assert "nobody measured the inputs of these matrices: method scale-search" in shown

    def test_what_the_errors_of_calibrated_codes_do_not_say(self, edgephi: Edgephi, tmp_path: Path) -> None:
        files = {QUANTISATION_NAME: encode_quantisation(quantised())}
        calibrated = replace(tiny_manifest().quant, method="calibrated")
        write_tiny_bundle(tmp_path, files, quant=calibrated)
        shown = edgephi("inspect", tmp_path, "--tensors", "--html", tmp_path.with_suffix(".html"))
        for text in (shown.stdout, tmp_path.with_suffix(".html").read_text(encoding="utf-8")):
            assert "make up for each other" in " ".join(text.split())

    def test_a_real_bundle(self, edgephi: Edgephi, demo_bundle: Path) -> None:
        done = edgephi("inspect", demo_bundle, "--tensors")
        assert (done.returncode, done.stderr) == (0, "")
        assert all(len(line) <= 80 for line in done.stdout.splitlines())
        assert "lm_head" in done.stdout

    def test_codes_that_another_tool_chose(self, edgephi: Edgephi, tmp_path: Path) -> None:
        made = Provenance("0.1.0", "edgephi build", {}, exporter="a builder 1.2")
        write_tiny_bundle(tmp_path / "b", provenance=made)
        for options in (["--tensors"], ["--tensors", "--json"], ["--html", tmp_path / "page.html"]):
            done = edgephi("inspect", tmp_path / "b", *options)
            assert is_one_error(done, 3)
            assert "the errors of its tensors are not known: not edgephi chose their codes" in done.stderr
            assert "another tool (a builder 1.2)" in done.stderr
        assert not (tmp_path / "page.html").exists()
        assert edgephi("inspect", tmp_path / "b").returncode == 0

    def test_the_hint_is_for_what_made_it(self, here: Here, tmp_path: Path) -> None:  # noqa: F811
        upstream = replace(tiny_manifest().quant, method="upstream")
        cases: list[tuple[dict[str, Any], str]] = [
            ({}, "hint: build it again: this edgephi writes that file"),
            (
                {"provenance": Provenance("0.1.0", "", {}, exporter="a builder 1.2"), "quant": upstream},
                "hint: build it again without --exporter upstream",
            ),
            (
                {"provenance": Provenance("0.1.0", "", {}, exporter="imported, QAIRT 2.31")},
                f"hint: `{edgephi_command('build', 'MODEL', '--target', 'cpu', '-o', 'DIR')}` makes one",
            ),
        ]
        for facts, hint in cases:
            write_tiny_bundle(tmp_path / "b", **facts)
            done = here("inspect", tmp_path / "b", "--tensors")
            assert is_one_error(done, 3)
            assert hint in done.stderr

    def test_one_whose_manifest_lists_none(self, here: Here, tmp_path: Path) -> None:  # noqa: F811
        write_tiny_bundle(tmp_path)
        done = here("inspect", tmp_path, "--tensors")
        assert is_one_error(done, 3)
        assert "expected quantisation.json among the files of its manifest, found none" in done.stderr

    def test_a_file_that_is_not_the_builds(self, edgephi: Edgephi, bundle: Path, tmp_path: Path) -> None:
        with (bundle / QUANTISATION_NAME).open("ab") as file:
            file.write(b" ")
        for options in (["--tensors"], ["--html", tmp_path / "page.html"]):
            assert is_one_error(edgephi("inspect", bundle, *options), 4)
        assert not (tmp_path / "page.html").exists()

    @pytest.mark.parametrize("options", [["--all"], ["--sort", "plain"], ["--html", "none/page.html"]])
    def test_usage_errors(self, edgephi: Edgephi, bundle: Path, tmp_path: Path, options: list[str]) -> None:
        assert is_one_error(edgephi("inspect", bundle, *options, cwd=tmp_path), 2)
