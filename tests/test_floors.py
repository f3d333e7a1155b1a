"""Imports go down only, nobody looks into a room that looks back, and no file or folder grows too large."""

from collections import Counter
from pathlib import Path

import pytest

from tests.house import (
    BUILD_SIDE,
    DEVICE,
    FLOOR_OF,
    GROUND,
    NO_ROOMS,
    PACKAGE,
    Look,
    circle,
    imports,
    is_through_the_wall,
    may_look,
    modules,
    name_of,
    names,
    read_drawing,
    room_of,
)

MOST_LINES = 400
MOST_FILES = 16
MOST_FILES_AT_THE_TOP = 6

IMPORTS = [look for name, path in modules().items() for look in imports(name, path.read_bytes())]
NAMES = [look for name, path in modules().items() for look in names(name, path.read_bytes())]

# Who of the build side looks into the device, and why it must.
THROUGH_THE_WALL = {
    "edgephi.build.qnn_import.binaries": "asks the runtime's library what a context binary holds",
    "edgephi.build.qnn_import.bundle": "takes in only what the runtime can open on that chip",
    "edgephi.build.choosing.this_machine": "asks the runtime which engines can be used here",
    "edgephi.build.seeing.picture_probe": "has the runtime answer about a picture, in a process of its own",
    "edgephi.build.seeing.proof": "prepares pictures as a device does, and has the runtime look at them",
    "edgephi.build.verify": "has the runtime compute what the certificate says, in a process of its own",
}
# Who starts or names what lies above it, and why it must.
UPWARDS = {
    ("edgephi.commands", "edgephi.cli"): "says how edgephi is called, for all who call it",
    ("edgephi.store.environments.environment", "edgephi.cli.run"): "asks a Python whether it could do that",
}


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(module) for module in modules()} - NO_ROOMS
    assert rooms == set(FLOOR_OF), "say in DRAWING of tests/house.py on which floor the room lies"


def test_imports_go_down_only() -> None:
    wrong = [
        str(look)
        for look in IMPORTS
        if room_of(look.importer) not in NO_ROOMS
        and not may_look(room_of(look.importer), room_of(look.imported))
        and look.importer not in THROUGH_THE_WALL
    ]
    assert wrong == []


def test_what_is_named_in_a_text_lies_below_too() -> None:
    """A process that is started by a module's name, or a module that is imported by one, is looked into."""
    wrong = [
        str(look)
        for look in NAMES
        if room_of(look.importer) not in NO_ROOMS
        and not may_look(room_of(look.importer), room_of(look.imported))
        and look.importer not in THROUGH_THE_WALL
        and (look.importer, look.imported) not in UPWARDS
    ]
    assert wrong == []


def test_whoever_may_look_elsewhere_does() -> None:
    through = {
        look.importer
        for look in (*IMPORTS, *NAMES)
        if is_through_the_wall(room_of(look.importer), room_of(look.imported))
    }
    assert through == set(THROUGH_THE_WALL)
    assert set(UPWARDS) <= {(look.importer, look.imported) for look in NAMES}


def test_no_module_looks_into_one_that_looks_back() -> None:
    assert [str(look) for look in circle(IMPORTS)] == []


def test_the_device_knows_nothing_of_the_build_side() -> None:
    """Follows from the floors; said by itself because a device has none of what the build side needs."""
    device = {room for room, floor in FLOOR_OF.items() if floor.part in (DEVICE, GROUND)}
    build_side = {room for room, floor in FLOOR_OF.items() if floor.part == BUILD_SIDE}
    assert not any(may_look(above, below) for above in device for below in build_side)


def test_no_file_is_too_long() -> None:
    lengths = {name: len(path.read_bytes().splitlines()) for name, path in modules().items()}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_no_folder_is_too_full() -> None:
    """The commands aside, which are as many as there are commands."""
    files = Counter(path.parent for path in modules().values())
    assert files.pop(PACKAGE) <= MOST_FILES_AT_THE_TOP
    del files[PACKAGE / "cli"]
    assert {str(folder): count for folder, count in files.items() if count > MOST_FILES} == {}


def looks(text: str) -> list[tuple[int, str]]:
    """What a module of that text imports."""
    return [(look.line, look.imported) for look in imports("edgephi.declared.room", text.encode())]


def test_imports_are_seen_wherever_they_stand() -> None:
    text = (
        "import edgephi\nfrom edgephi import build, __version__\n"
        "if TYPE_CHECKING:\n    from edgephi.cli.main import cli\n"
        "def late():\n    import edgephi.export.onnx.exporter as onnx, json\n"
    )
    assert sorted(looks(text)) == [
        (1, "edgephi"),
        (2, "edgephi"),
        (2, "edgephi.build"),
        (4, "edgephi.cli.main"),
        (6, "edgephi.export.onnx.exporter"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ADAPTERS = {'mlx-lm': 'edgephi.runtime.engines.mlx_lm'}", ["edgephi.runtime.engines.mlx_lm"]),
        ("[sys.executable, '-m', 'edgephi.runtime.proof.logits', path]", ["edgephi.runtime.proof.logits"]),
        ("program = 'import edgephi.cli.run\\nrun()'", ["edgephi.cli.run"]),
        ("import_module(f'edgephi.export.{name}')", ["edgephi.export"]),
        ("SCHEMA, TYPE = 'edgephi.bundle/1', 'application/vnd.edgephi.bundle.v1+json'", []),
        ('"""A document about edgephi.runtime.session."""', []),
    ],
    ids=["a table", "a process", "a program", "a part of a name", "a schema", "a docstring"],
)
def test_names_of_modules_are_seen_in_texts(text: str, expected: list[str]) -> None:
    assert [look.imported for look in names("edgephi.declared.room", text.encode())] == expected


def test_a_circle_is_found_and_shown() -> None:
    straight = [Look("a", 1, "b"), Look("b", 2, "c"), Look("a", 3, "c"), Look("c", 4, "c")]
    assert circle(straight) == []
    back = [Look("x", 9, "a"), *straight, Look("c", 5, "b")]
    assert circle(back) == [Look("b", 2, "c"), Look("c", 5, "b")]


def test_rooms_look_down_and_not_aside() -> None:
    drawing = "the roof        a\n\nthe ground      b c\n                d\n"
    assert [floor.rooms for floor in read_drawing(drawing)] == [("d",), ("b", "c"), ("a",)]
    assert may_look("store", "runtime")
    assert may_look("build", "records")
    assert not may_look("runtime", "store")
    assert not may_look("server", "store")
    assert not may_look("steps", "errors")
    assert not may_look("export", "runtime"), "the wall"
    assert not may_look("runtime", "declared"), "the wall"


def test_a_package_is_named_by_its_folder() -> None:
    assert name_of(PACKAGE / "export" / "__init__.py") == "edgephi.export"
    assert room_of(name_of(Path(PACKAGE / "errors.py"))) == "errors"
