"""Which words of a user name which checkpoint."""

from pathlib import Path

import pytest

import edgephi
from edgephi.checkpoint.locate import locate, name_of
from edgephi.errors import BadCheckpointError, UsageError


@pytest.mark.parametrize("name", ["demo", "demo-vision"])
def test_demos_are_inside_the_package(name: str) -> None:
    found = locate(name)
    assert (found.id, found.revision) == (f"edgephi/{name}", edgephi.__version__)
    assert found.folder.parent == Path(edgephi.__file__).parent
    assert (found.folder / "config.json").is_file()
    assert name_of(found.id) == name


@pytest.mark.parametrize("model", ["edgephi/other", "somebody/demo", "demo", "a folder"])
def test_what_is_no_demo_is_called_as_it_is(model: str) -> None:
    assert name_of(model) == model


def test_existing_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my-phi"
    folder.mkdir()
    found = locate(str(folder))
    assert (found.id, found.revision, found.folder) == ("my-phi", "local", folder)


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        locate(str(tmp_path), revision="main")


@pytest.mark.parametrize("model", ["./nothing", "/no/such/folder", "../up", "~/models", "a/b/c"])
def test_a_path_to_nothing(model: str) -> None:
    with pytest.raises(BadCheckpointError, match="no such folder"):
        locate(model)


@pytest.mark.parametrize("model", ["phi-99", "", "two words"])
def test_neither_path_nor_hub_id(model: str) -> None:
    with pytest.raises(BadCheckpointError, match="expected a recipe, a folder or a hub id"):
        locate(model)


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    with pytest.raises(BadCheckpointError, match="found a file"):
        locate(str(tmp_path / "x.gguf"))
