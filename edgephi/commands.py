"""Commands that a message tells its reader to run: quoted for a shell, and found where they lie.

Every command in a hint, or in what a command prints at its end, is made here from a list of words, and none
is written into a text: so no quote, space or dollar of somebody's file name can mean something to the shell
that it is pasted into (`tests/test_commands.py` reads the whole code for that). None removes or overwrites
what is there.

Standard library only: the store, which travels to bare boxes, tells commands too.
"""

import functools
import os
import shlex
import sys
from pathlib import Path

from edgephi.installed.extras import with_installed
from edgephi.installed.origin import requirement

Word = str | os.PathLike[str]
"""A word of a command. A path, which is not a `str`, cannot be taken for an option or for another machine."""

PROGRAM = "edgephi"
PROGRAM_MODULE = "edgephi.cli"
"""What a Python starts as edgephi's command line, behind `-m`."""

_STORES_ENVIRONMENTS = "envs"
_ESCAPES = {"\\": r"\\", "'": r"\'", "\n": r"\n", "\r": r"\r", "\t": r"\t"}


def shell_command(*words: Word) -> str:
    """The command of these words, quoted so that a shell reads exactly them."""
    return " ".join(_quoted(word if isinstance(word, str) else _plain_path(word)) for word in words)


def edgephi_command(*words: Word) -> str:
    """The command that calls the running edgephi with these words.

    Where the shell does not find it by its name, as when its environment is not active, its path is told.
    """
    return shell_command(*_this_program(), *words)


def command_of_store(python: str | None = None) -> Path | None:
    """The command `ROOT/envs/edgephi` of the store whose environment a Python is from, if it is from one.

    By default that which runs. The environment goes with its bundle; this command stays, and starts that of
    whatever bundle is active.
    """
    command = Path(python or sys.executable or "/").parent.parent.parent / PROGRAM
    is_one = command.parent.name == _STORES_ENVIRONMENTS and _is_program(command, PROGRAM)
    return command if is_one else None


def pip_command(*words: Word) -> str:
    """The command that calls the pip of the Python that runs, which a shell may find by no name."""
    return shell_command(*_program("pip", (Path(sys.executable), "-m", "pip")), *words)


def install_command(*extras: str) -> str:
    """The command that brings these extras of edgephi, from where it was installed itself.

    It names the extras that are here already as well: pip looks at nothing but the requirements that it is
    given, and would move a package that another extra shares out of that one's range.
    """
    return pip_command("install", *requirement(with_installed(extras)))


def place(text: str) -> Word:
    """A destination that a user gave: a path, unless it is written as a URL or another scheme."""
    scheme, colon, _ = text.partition(":")
    return text if colon and (scheme == "image" or "://" in text) else Path(text)


def _plain_path(path: os.PathLike[str]) -> str:
    """A path that is none of a program's options, and no `host:path` of ssh's kind."""
    text = os.fspath(path)
    return f"./{text}" if text.startswith("-") or ":" in text.partition("/")[0] else text


def _quoted(word: str) -> str:
    """A word for a shell. Letters that do not show, such as a line's end, are written as escapes."""
    if word.isprintable():
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def _escaped(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    if letter.isprintable():
        return letter
    is_byte = "\udc80" <= letter <= "\udcff"  # how Python holds a byte of a name that is no UTF-8
    data = letter.encode(errors="surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"\\{byte:03o}" for byte in data)


@functools.cache
def _this_program() -> tuple[Word, ...]:
    """The words that start the edgephi that runs."""
    called = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path()
    if called.parts[-3:] == (PROGRAM, "cli", "__main__.py"):
        of_store = command_of_store()
        if of_store is not None:
            return (_from_here(of_store),)
        return (_from_here(Path(sys.executable)), "-m", PROGRAM_MODULE)
    return _program(PROGRAM, (PROGRAM,), called)


def _program(name: str, otherwise: tuple[Word, ...], *candidates: Path) -> tuple[Word, ...]:
    """The words that start a program which is one of `candidates` or lies beside Python."""
    beside_python = Path(sys.executable or "/").parent / name
    program = next((path for path in (*candidates, beside_python) if _is_program(path, name)), None)
    if program is None:
        return tuple(_from_here(word) if isinstance(word, Path) else word for word in otherwise)
    folders = (Path(folder) / name for folder in os.get_exec_path())
    found = next((path for path in folders if _is_program(path, name)), None)
    if found is not None and found.samefile(program):
        return (name,)
    return (_from_here(program.absolute()),)


def _is_program(path: Path, name: str) -> bool:
    return path.name == name and path.is_file() and os.access(path, os.X_OK)


def _from_here(path: Path) -> Word:
    """A program as one would type it: from the working folder on when it lies below that."""
    try:
        here = Path.cwd()
        below = path.relative_to(here)
    except (ValueError, OSError):
        return path
    if here == Path("/"):
        return path
    return below if len(below.parts) > 1 else f"./{below}"
