"""A file of boxes: a TOML file that gives names to destinations, and names to groups of them.

[boxes]
kitchen = "ssh://admin@10.0.0.7/srv/phi"
hall = "ssh://hall/srv/phi"                 # an alias of ~/.ssh/config

[groups]
canary = ["kitchen"]
ground-floor = ["canary", "hall"]           # groups may have groups
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgephi.cli.text_file import read_text
from edgephi.errors import BadInputError, UsageError
from edgephi.flash.destination import Box, read_box
from edgephi.records import read_record

ALL = "all"
"""Every box of a file."""

# What no shell, no option and no destination is mistaken for.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HINT = 'write it as [boxes], NAME = "ssh://user@host/path", and [groups], NAME = ["BOX", ...]'


@dataclass(frozen=True)
class BoxesFile:
    """Destinations by the names of boxes, and the names of boxes and groups in each group."""

    boxes: Mapping[str, str]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def names_in(self, name: str) -> tuple[str, ...]:
        """The boxes that a name means, each once: a box's own, a group's, or `ALL`."""
        if name == ALL:
            return tuple(self.boxes)
        if name in self.boxes:
            return (name,)
        return tuple(dict.fromkeys(box for each in self.groups[name] for box in self.names_in(each)))

    def knows(self, name: str) -> bool:
        """Whether a name means any box of the file."""
        return name == ALL or name in self.boxes or name in self.groups


def read_boxes_file(path: Path) -> BoxesFile:
    """Read a file of boxes. Raises BadInputError with the key, and what was expected there."""
    text = read_text(path)
    try:
        plain = tomllib.loads(text)
    except (ValueError, RecursionError) as cause:
        raise BadInputError(f"{path}: expected TOML, found {cause}", hint=_HINT) from None
    file = read_record(BoxesFile, plain, where=str(path), error=BadInputError, hint=_HINT)
    for problem in _problems(file):
        raise BadInputError(f"{path}: {problem}", hint=_HINT)
    return file


def unknown_name(path: Path, file: BoxesFile, word: str) -> UsageError:
    """The error for a word that is no destination, and no name in a file."""
    close = difflib.get_close_matches(word, [*file.boxes, *file.groups, ALL], n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    return UsageError(
        f"{word}: expected ssh://…, a folder with its /, or the name of a box or group in {path}, found none"
        f"{meant}",
        hint=f"give one of its names, or {ALL} for every box",
    )


def _problems(file: BoxesFile) -> Iterator[str]:
    """What is wrong with what a file says."""
    known: dict[Box, str] = {}
    for name, destination in file.boxes.items():
        yield from _bad_name("boxes", name)
        try:
            box = read_box(destination)
        except UsageError as error:
            yield f"boxes.{name}: {error.message}"
            continue
        if box in known:
            yield f"boxes.{name}: expected a store of its own, found that of {known[box]}"
        known[box] = name
    if not file.boxes:
        yield "boxes: expected a box or more, found none"
    for name, members in file.groups.items():
        yield from _bad_name("groups", name)
        if name in file.boxes:
            yield f"groups.{name}: expected a name that no box has, found one that a box has"
        if not members:
            yield f"groups.{name}: expected the name of a box or more, found none"
        for member in members:
            if member not in file.boxes and member not in file.groups:
                yield f"groups.{name}: expected the name of a box or a group, found {member!r}"
    for name in file.groups:
        if _reaches(file, name, name):
            yield f"groups.{name}: expected boxes and other groups, found it within itself"


def _bad_name(table: str, name: str) -> Iterator[str]:
    if name == ALL:
        yield f"{table}.{name}: expected another name, found the one that means every box"
    elif not _NAME.fullmatch(name):
        yield f"{table}: expected names of letters, digits, . _ and -, found {name!r}"


def _reaches(file: BoxesFile, start: str, goal: str) -> bool:
    """Whether a group is within another one, or within one that is in it, and so on."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for member in file.groups.get(waiting.pop(), ()):
            if member == goal:
                return True
            if member not in seen:
                seen.add(member)
                waiting.append(member)
    return False
