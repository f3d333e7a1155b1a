"""Where recipes and targets lie, and how their TOML becomes a dataclass. An unknown key is an error."""

import difflib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import edgephi
from edgephi.commands import edgephi_command
from edgephi.errors import BadDeclarationError
from edgephi.records import read_record

Declared = TypeVar("Declared")

_PACKAGE = Path(edgephi.__file__).parent


def shipped(folder: str) -> Path:
    """The folder `recipes` or `targets`: inside the installed package, or at the top of a working copy."""
    inside = _PACKAGE / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder


def shipped_names(folder: str) -> list[str]:
    """Names of all declarations of a kind, sorted; a file's name is the name."""
    return sorted(file.stem for file in shipped(folder).glob("*.toml"))


def find_file(name: str, folder: str) -> Path:
    """The file of the declaration `name`: a shipped one, or a path to a TOML file of one's own.

    Raises BadDeclarationError when there is neither.
    """
    path = Path(name)
    if name.endswith(".toml") or "/" in name:
        if path.is_file():
            return path
        found = "a folder" if path.is_dir() else "no such file"
        raise BadDeclarationError(
            f"{name}: expected a TOML file, found {found}", hint=f"see `{edgephi_command(folder)}`"
        )
    names = shipped_names(folder)
    if name in names:
        return shipped(folder) / f"{name}.toml"
    close = difflib.get_close_matches(name, names, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    kind = folder.removesuffix("s")
    raise BadDeclarationError(
        f"{name}: expected a {kind}, found none of that name{meant}",
        hint=f"`{edgephi_command(folder)}` lists them; a path to a TOML file works too",
    )


def read_toml(path: Path, kind: type[Declared]) -> Declared:
    """Read one declaration. Raises BadDeclarationError with the file, the key, and what was expected."""
    recipes, targets = (edgephi_command(folder, "show", "NAME") for folder in ("recipes", "targets"))
    hint = f"the shipped files show every key: {recipes}, {targets}"
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as cause:  # a number of 5,000 digits is no TOMLDecodeError
        raise BadDeclarationError(f"{path}: expected TOML, found {cause}", hint=hint) from None
    return read_record(kind, plain, where=str(path), error=BadDeclarationError, hint=hint)


def read_all(folder: str, kind: type[Declared]) -> Iterator[Declared]:
    """All shipped declarations of a kind, by name."""
    for name in shipped_names(folder):
        yield read_toml(shipped(folder) / f"{name}.toml", kind)
