"""Imports go down only: which rooms of edgephi a room may look into."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgephi

PACKAGE = Path(edgephi.__file__).parent

FLOORS: dict[str, int] = {
    "bundle": 0,
    "commands": 0,
    "engines": 0,
    "errors": 0,
    "guards": 0,
    "installed": 0,
    "machine": 0,
    "processes": 0,
    "records": 0,
    "steps": 0,
    "declared": 1,
    "checkpoint": 2,
    "quantize": 3,
    "reference": 3,
    "export": 4,
    "build": 5,
    "flash": 5,
}
"""The floor of each room. A room may import those below it, and others of its own floor."""

# The annex, what runs on a device: looks into floor 0 only, so that a device needs nothing else. The store
# looks into the runtime too; what brings bundles to a device looks into both. What takes in an artifact that
# others have compiled looks into the runtime, which knows what it can open.
DEVICE = "runtime"
SERVER = "server"
STORE = "store"
ROOF = "cli"  # may look everywhere
DATA = "demo"  # files, and no code

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__")


def room_of(module: str) -> str:
    """The room of a module by its full name: "export" of "edgephi.export.onnx.exporter"."""
    return ([*module.split("."), ""])[1]


def name_of(path: Path) -> str:
    """The full name of the module in a file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import from edgephi, wherever it stands; "" is the package's own version."""
    rooms = {each.stem for each in PACKAGE.iterdir()}
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            base = node.module or ""
            names = [f"{base}.{alias.name}" if base == "edgephi" else base for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "edgephi":
                room = room_of(name)
                yield node.lineno, room if room in rooms else ""


def may_import(importer: str, imported: str) -> bool:
    """Whether one room may look into another."""
    if imported in ("", importer) or importer == ROOF:
        return True
    above = ((SERVER, DEVICE), (STORE, DEVICE), ("flash", DEVICE), ("flash", STORE), ("build", DEVICE))
    if (importer, imported) in above:
        return True
    if importer in (DEVICE, SERVER, STORE):
        return FLOORS.get(imported) == 0
    return imported in FLOORS and importer in FLOORS and FLOORS[imported] <= FLOORS[importer]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down_only(path: Path) -> None:
    importer = room_of(name_of(path))
    assert importer in {*FLOORS, DEVICE, SERVER, STORE, ROOF, DATA}, (
        f"say in FLOORS on which floor {importer} lies"
    )
    wrong = [(line, room) for line, room in imported_rooms(path) if not may_import(importer, room)]
    assert wrong == []


def test_the_names_of_engines_go_down_too() -> None:
    """Adapters and exporters are imported by name: the names must lie in the room that holds them."""
    from edgephi.export.exporter import _EXPORTERS
    from edgephi.runtime.adapter import ADAPTERS

    assert {room_of(module) for module in ADAPTERS.values()} == {DEVICE}
    assert {room_of(module) for module in _EXPORTERS.values()} == {"export"}


def test_this_test_sees_imports_wherever_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "room.py"
    file.write_text(
        "import edgephi\nfrom edgephi import build, __version__\n"
        "if TYPE_CHECKING:\n    from edgephi.cli.main import cli\n"
        "def late():\n    import edgephi.export.onnx.exporter as onnx, json\n"
    )
    assert sorted(imported_rooms(file)) == [(1, ""), (2, ""), (2, "build"), (4, "cli"), (6, "export")]
    assert not may_import("quantize", "build")
    assert not may_import("runtime", "declared")
    assert may_import("runtime", "bundle")
    assert may_import("reference", "quantize")
    assert may_import("store", "runtime")
    assert may_import("flash", "store")
    assert not may_import("runtime", "store")
    assert not may_import("store", "flash")
    assert not may_import("build", "store")
