"""A file of boxes: what its names mean, and what is wrong with one that cannot be meant."""

from pathlib import Path

import pytest

from edgephi.cli.fleet.boxes_file import read_boxes_file
from edgephi.cli.fleet.stores import Store, read_stores
from edgephi.errors import BadInputError, EdgephiError, UsageError
from edgephi.flash.destination import Box

FILE = """
[boxes]
kitchen = "ssh://admin@10.0.0.7:2222/srv/phi"
hall = "ssh://hall/srv/phi"
"plant-3.line_1" = "ssh://hall/~/other"

[groups]
canary = ["kitchen"]
floor = ["canary", "hall", "kitchen"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of three boxes and two groups."""
    path = tmp_path / "boxes.toml"
    path.write_text(FILE)
    return path


def words(stores: tuple[Store, ...]) -> list[str]:
    """What each is called again by."""
    return [store.word for store in stores]


def test_a_name_means_its_box(file: Path) -> None:
    (store,) = read_stores(["kitchen"], file)
    assert store.place == Box("10.0.0.7", "/srv/phi", "admin", 2222)
    assert (store.destination, store.word, store.name) == (
        "ssh://admin@10.0.0.7:2222/srv/phi",
        "kitchen",
        "kitchen",
    )


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["canary"], ["kitchen"]),
        (["floor"], ["kitchen", "hall"]),
        (["hall", "floor"], ["hall", "kitchen"]),
        (["all"], ["kitchen", "hall", "plant-3.line_1"]),
        (["canary", "ssh://else/srv/phi", "./here"], ["kitchen", "ssh://else/srv/phi", "./here"]),
    ],
)
def test_groups_mean_their_boxes_each_once(file: Path, given: list[str], meant: list[str]) -> None:
    assert words(read_stores(given, file)) == meant


def test_without_a_file_a_name_is_a_folder(file: Path) -> None:
    assert read_stores(["kitchen"])[0].place == Path("kitchen")


def test_a_box_is_not_meant_by_its_name_and_its_address(file: Path) -> None:
    with pytest.raises(UsageError, match="found it twice"):
        read_stores(["hall", "ssh://hall/srv/phi"], file)


@pytest.mark.parametrize("word", ["kitchn", "boxes", "-", "hall:phi", "image:phi.img", "Kitchen"])
def test_a_word_that_is_no_name_is_refused(file: Path, word: str) -> None:
    with pytest.raises(UsageError) as error:
        read_stores([word], file)
    assert str(file) in error.value.message
    assert word != "kitchn" or "did you mean 'kitchen'?" in error.value.message


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "key 'boxes' is missing"),
        ("[boxes]\n", "expected a box or more"),
        ("boxes = 3", "expected a table"),
        ("[boxes]\na = 3", "boxes.a: expected a string"),
        ('[boxes]\na = "/srv/phi"', "boxes.a: /srv/phi: expected ssh://"),
        ('[boxes]\na = "box:phi"', "expected ssh://"),
        ('[boxes]\na = "ssh://box"', "the folder of the store"),
        ('[boxes]\na = "ssh://u:p@box/x"', "expected no password"),
        ('[boxes]\nall = "ssh://box/x"', "the one that means every box"),
        ('[boxes]\n"-a" = "ssh://box/x"', "expected names of letters"),
        ('[boxes]\n"a b" = "ssh://box/x"', "expected names of letters"),
        ('[boxes]\n"ssh://y/x" = "ssh://box/x"', "expected names of letters"),
        ('[boxes]\na = "ssh://box/x"\nb = "ssh://box/x/"', "found that of a"),
        ('[boxes]\na = "ssh://box/x"\n[groups]\na = ["a"]', "found one that a box has"),
        ('[boxes]\na = "ssh://box/x"\n[groups]\ng = []', "found none"),
        ('[boxes]\na = "ssh://box/x"\n[groups]\ng = ["b"]', "found 'b'"),
        ('[boxes]\na = "ssh://box/x"\n[groups]\ng = ["h", "a"]\nh = ["g"]', "found it within itself"),
        ('[boxes]\na = "ssh://box/x"\n[groups]\ng = ["g"]', "found it within itself"),
        ('[boxes]\na = "ssh://box/x"\n[group]\ng = ["a"]', "did you mean"),
        ("[boxes\n", "expected TOML"),
    ],
)
def test_what_a_file_cannot_mean_is_said_with_its_place(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "boxes.toml"
    path.write_text(text)
    with pytest.raises(BadInputError) as error:
        read_boxes_file(path)
    assert error.value.message.startswith(f"{path}: ") or error.value.message.startswith(str(path))
    assert found in error.value.message
    assert "\n" not in error.value.message


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.toml", tmp_path):
        with pytest.raises(EdgephiError, match=str(path)):
            read_boxes_file(path)
