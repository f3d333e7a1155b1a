"""What a shell offers after Tab: recipes, targets, chips, and the bundles that are here.

Each function completes a word as click's `shell_complete` asks for it, and reads names of files only. A name
that a shell would have to quote is left to the shell's own completion of paths, which quotes it.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_Complete = Callable[[click.Context, click.Parameter, str], list["CompletionItem"]]
_NEEDS_NO_QUOTES = re.compile(r"[\w./+@=%:-]+", re.ASCII)
_MOST_FOLDERS = 1000


def complete_model(_context: click.Context, _parameter: click.Parameter, word: str) -> list["CompletionItem"]:
    """The recipes that stand for a model, and folders."""
    from edgephi.declared.recipe import DEFAULT, FOLDER

    return _names_or_paths((name for name in _declared(FOLDER) if name != DEFAULT), word, "dir")


def complete_recipe(
    _context: click.Context, _parameter: click.Parameter, word: str
) -> list["CompletionItem"]:
    """The recipes, and files."""
    from edgephi.declared.recipe import FOLDER

    return _names_or_paths(_declared(FOLDER), word, "file")


def complete_target(
    _context: click.Context, _parameter: click.Parameter, word: str
) -> list["CompletionItem"]:
    """`auto`, the targets, and files."""
    from edgephi.declared.target import FOLDER

    return _names_or_paths(("auto", *_declared(FOLDER)), word, "file")


def complete_soc(_context: click.Context, _parameter: click.Parameter, word: str) -> list["CompletionItem"]:
    """The chips of `edgephi targets socs`, and files."""
    from edgephi.declared.soc import FOLDER

    return _names_or_paths(_declared(FOLDER), word, "file")


def complete_declared(folder: str) -> _Complete:
    """Completes with the declarations in `folder`, which is recipes or targets, and nothing else."""

    def complete(_context: click.Context, _parameter: click.Parameter, word: str) -> list["CompletionItem"]:
        return _items(name for name in _declared(folder) if name.startswith(word))

    return complete


def complete_bundle(
    _context: click.Context, _parameter: click.Parameter, word: str
) -> list["CompletionItem"]:
    """The bundles and stores in the folder that the word leads to; folders, where it has none."""
    above, slash, start = word.rpartition("/")
    with contextlib.suppress(OSError), os.scandir(above + slash or ".") as entries:
        names = [
            above + slash + entry.name
            for entry, _ in zip(entries, range(_MOST_FOLDERS), strict=False)
            if entry.name.startswith(start)
            and (start or not entry.name.startswith("."))
            and _is_bundle(entry)
        ]
        if names and all(map(_NEEDS_NO_QUOTES.fullmatch, names)):
            return _items(sorted(names))
    return _items([word], "dir")


def _is_bundle(entry: "os.DirEntry[str]") -> bool:
    """Whether a folder holds a bundle, or a store with one."""
    from edgephi.bundle.manifest import MANIFEST_NAME
    from edgephi.store.disk.layout import is_store

    folder = Path(entry.path)
    return (folder / MANIFEST_NAME).is_file() or is_store(folder)


def _declared(folder: str) -> Sequence[str]:
    from edgephi.declared.toml_files import shipped_names

    return shipped_names(folder)


def _names_or_paths(names: Iterable[str], word: str, kind: str) -> list["CompletionItem"]:
    """The names that begin with a word; paths of a kind ("dir" or "file") where none does."""
    return _items(name for name in names if name.startswith(word)) or _items([word], kind)


def _items(values: Iterable[str], kind: str = "plain") -> list["CompletionItem"]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(value, type=kind) for value in values]
