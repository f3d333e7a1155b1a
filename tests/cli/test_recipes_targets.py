"""`edgephi recipes` and `edgephi targets`."""

import json
from pathlib import Path

import pytest

from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import read_target
from edgephi.declared.toml_files import shipped, shipped_names
from tests.cli.conftest import Edgephi, is_one_error


@pytest.mark.parametrize("kind", ["recipes", "targets"])
def test_one_line_each_in_80_columns(edgephi: Edgephi, kind: str) -> None:
    done = edgephi(kind)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == shipped_names(kind)
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


@pytest.mark.parametrize("kind", ["recipes", "targets"])
def test_json_is_one_document(edgephi: Edgephi, kind: str) -> None:
    document = json.loads(edgephi(kind, "--json").stdout)
    assert [entry["name"] for entry in document] == shipped_names(kind)
    assert all(entry["summary"] for entry in document)


@pytest.mark.parametrize(("kind", "name"), [("recipes", "phi-3.5-mini"), ("targets", "cpu")])
def test_show_prints_the_file(edgephi: Edgephi, tmp_path: Path, kind: str, name: str) -> None:
    done = edgephi(kind, "show", name)
    assert done.stdout == (shipped(kind) / f"{name}.toml").read_text()
    own = tmp_path / "own.toml"
    own.write_text(done.stdout)
    read = read_recipe if kind == "recipes" else read_target
    assert read(str(own)) == read(name)


@pytest.mark.parametrize("kind", ["recipes", "targets"])
def test_show_of_an_unknown_name(edgephi: Edgephi, kind: str) -> None:
    done = edgephi(kind, "show", "cpuu" if kind == "targets" else "phi-4-mni")
    assert is_one_error(done, 4)
    assert "did you mean" in done.stderr


@pytest.mark.parametrize("kind", ["recipes", "targets"])
def test_a_name_is_its_files_name(kind: str) -> None:
    read = read_recipe if kind == "recipes" else read_target
    assert [read(name).name for name in shipped_names(kind)] == shipped_names(kind)


def test_chips_in_80_columns(edgephi: Edgephi) -> None:
    done = edgephi("targets", "socs")
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = done.stdout.splitlines()
    assert header.split()[0] == "name"
    assert [line.split()[0] for line in lines] == shipped_names("targets/socs")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    document = json.loads(edgephi("targets", "socs", "--json").stdout)
    assert [entry["soc_model"] for entry in document if entry["name"] == "snapdragon-8-gen-3"] == [57]
