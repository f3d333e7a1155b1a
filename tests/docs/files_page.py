"""The tables of docs/files.md: which files edgephi may write."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "files.md"
EVERYBODY = "every command"
_NAMES = re.compile(r"BUNDLE|STORE|FILE|TMPDIR|~")
_WILD = {"**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True)
class Place:
    """A row: a pattern of paths, and in words who writes there."""

    pattern: str
    writers: str

    def is_written_by(self, command: str) -> bool:
        return EVERYBODY in self.writers or f"`{command}`" in self.writers

    def holds(self, path: str, names: Mapping[str, Path]) -> bool:
        """Whether a path is one of these; `names` is what stands for the names in capitals, and for `~`."""
        name = _NAMES.search(self.pattern)
        if name is None:
            return _matches(self.pattern, path)
        if name[0] not in names:
            return False
        given = names[name[0]]
        before, after = self.pattern[: name.start()], self.pattern[name.end() :]
        where = f"{given.parent}/{before}{given.name}" if before else str(given)
        return _matches(where + after, path)


def read_places() -> list[Place]:
    """Every row of every table of the page."""
    return list(_rows(PAGE.read_text(encoding="utf-8")))


def _rows(text: str) -> Iterator[Place]:
    for line in text.splitlines():
        if line.startswith("| `"):
            place, _what, writers, _remove = (cell.strip() for cell in line.strip("|").split("|"))
            yield Place(place.strip("`"), writers)


def _matches(pattern: str, path: str) -> bool:
    inside = "(/.*)?" if pattern.endswith("/") else ""
    parts = re.split(r"(\*\*|\*|\?)", pattern.rstrip("/"))
    return (
        re.fullmatch("".join(_WILD.get(part, re.escape(part)) for part in parts) + inside, path) is not None
    )
