"""The house: on which floor each room of edgephi lies, and what each module looks into.

A room is a folder at the top of `edgephi/`, or a file there. The floors are said here and nowhere else:
`tests/test_floors.py` holds the code to them, and `docs/concepts.md` shows them.
"""

import ast
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import edgephi

PACKAGE = Path(edgephi.__file__).parent

# From the roof down. Rooms that stand side by side do not know each other.
DRAWING = """
the roof        cli

the build side  build
                export
                reference
                quantize
                checkpoint
                declared

the device      flash
                server store
                runtime

the ground      machine
                bundle
                chat
                engines
                processes
                guards
                commands
                installed
                records
                errors steps
"""
ROOF, BUILD_SIDE, DEVICE, GROUND = "the roof", "the build side", "the device", "the ground"

NO_ROOMS = frozenset({"", "demo", "demo_vision"})
"""The package itself, which has the version, and files without code."""

_NAME_WIDTH = 16
# A module's name in a text; "edgephi.bundle/1" is a schema's, "vnd.edgephi.bundle" a media type's.
_MODULE = re.compile(r"(?<![\w./])edgephi(?:\.\w+)+(?![\w/])")


@dataclass(frozen=True)
class Floor:
    """A floor of the house, 0 the lowest, and the rooms on it."""

    number: int
    part: str
    rooms: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """That a module looks into another one, by an import or by a name in a text."""

    importer: str
    line: int
    imported: str

    def __str__(self) -> str:
        """As a linter would say it."""
        return f"{self.importer}:{self.line}: {self.imported}"


def read_drawing(drawing: str) -> tuple[Floor, ...]:
    """The floors of a drawing, from the ground up."""
    part, floors = "", []
    for line in filter(None, drawing.splitlines()):
        part = line[:_NAME_WIDTH].strip() or part
        floors.append((part, tuple(line[_NAME_WIDTH:].split())))
    return tuple(Floor(number, *each) for number, each in enumerate(reversed(floors)))


FLOORS = read_drawing(DRAWING)
FLOOR_OF = {room: floor for floor in FLOORS for room in floor.rooms}


def room_of(module: str) -> str:
    """The room of a module by its full name: "export" of "edgephi.export.onnx.exporter"."""
    return ([*module.split("."), ""])[1]


def may_look(importer: str, imported: str) -> bool:
    """Whether one room may look into another: only down, and from the build side only past the device."""
    if imported == importer or imported in NO_ROOMS:
        return True
    above, below = FLOOR_OF[importer], FLOOR_OF[imported]
    return below.number < above.number and not is_through_the_wall(importer, imported)


def is_through_the_wall(importer: str, imported: str) -> bool:
    """Whether a room of the build side looks into one of the device."""
    parts = [FLOOR_OF[room].part if room in FLOOR_OF else "" for room in (importer, imported)]
    return parts == [BUILD_SIDE, DEVICE]


def name_of(path: Path) -> str:
    """The full name of the module in a file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules() -> Mapping[str, Path]:
    """All modules of edgephi by their full names."""
    return {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(importer: str, source: bytes) -> Iterator[Look]:
    """The modules of edgephi that a module imports, wherever the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{importer}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in filter(None, map(_known, names)):
            yield Look(importer, node.lineno, module)


def names(importer: str, source: bytes) -> Iterator[Look]:
    """The modules that a module names in a text: to start them, to import them later or elsewhere."""
    tree = ast.parse(source)
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            for found in _MODULE.findall(node.value):
                if module := _known(found):
                    yield Look(importer, node.lineno, module)


def circle(looks: Iterable[Look]) -> list[Look]:
    """A way along which a module looks into itself, if there is one."""
    left: dict[str, list[Look]] = {}
    for look in looks:
        if look.importer != look.imported:
            left.setdefault(look.importer, []).append(look)
    while ends := [name for name in left if not any(look.imported in left for look in left[name])]:
        for name in ends:
            del left[name]
    way: list[Look] = []
    module = min(left, default="")
    while module and module not in [look.importer for look in way]:
        way.append(next(look for look in left[module] if look.imported in left))
        module = way[-1].imported
    start = next((place for place, look in enumerate(way) if look.importer == module), 0)
    return way[start:]


def _known(name: str) -> str:
    """The module of edgephi that a dotted name is, or is a part of; "" if none."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name
