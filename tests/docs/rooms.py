"""Writes the table of rooms into `docs/concepts.md`, from the code: `python -m tests.docs.rooms`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.house import FLOORS, PACKAGE

CONCEPTS = Path(__file__).resolve().parents[2] / "docs" / "concepts.md"

_HEAD = "|  | floor | room | what |\n|---|--:|---|---|\n"
_TABLE = re.compile(rf"{re.escape(_HEAD)}(?:\|.*\n)*")


def with_rooms(page: str) -> str:
    """The page with its table of rooms as the code has them, from the roof down."""
    table = _HEAD + "".join(f"{row}\n" for row in _rows())
    changed, times = _TABLE.subn(lambda _: table, page)
    if times != 1:
        raise AssertionError(f"{CONCEPTS.name}: expected one table of rooms, found {times}")
    return changed


def _rows() -> Iterator[str]:
    above = ""
    for floor in reversed(FLOORS):
        part = f"**{floor.part}**" if floor.part != above else ""
        above = floor.part
        for place, room in enumerate(floor.rooms):
            is_folder = (PACKAGE / room).is_dir()
            text = _purpose(PACKAGE / room / "__init__.py" if is_folder else PACKAGE / f"{room}.py")
            number = "" if place else floor.number
            yield f"| {'' if place else part} | {number} | `{room}{'/' if is_folder else '.py'}` | {text} |"


def _purpose(file: Path) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(file.read_bytes())) or ""
    line = text.partition("\n")[0].removesuffix(".")
    if not line:
        raise AssertionError(f"{file}: expected a docstring that says what the room is for")
    return line


if __name__ == "__main__":
    CONCEPTS.write_text(with_rooms(CONCEPTS.read_text(encoding="utf-8")), encoding="utf-8")
