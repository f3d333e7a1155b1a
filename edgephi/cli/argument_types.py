"""What an argument of a command may be: never blank, as that of an unset variable is, and a path no address.

Without these a blank path would mean the working folder, and `box:phi`, which is how scp writes a place on
another machine, a folder of that name on this one.
"""

import os
import re
from pathlib import Path
from typing import Any

import click

from edgephi.commands import edgephi_command, shell_command
from edgephi.errors import UsageError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
"""How an address begins, which no path on this machine does."""

_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


class _Name(click.types.StringParamType):
    """A text that is not blank."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as it is. Raises UsageError."""
        text = super().convert(value, param, ctx)
        _refuse_blank(str(text), param)
        return str(text)


class ReadPath(click.Path):
    """A path on this machine to read from."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The `Path`. Raises UsageError for a blank one and for a URL."""
        text = os.fspath(value)
        _refuse_blank(text, param)
        if URL.match(text):
            raise UsageError(
                f"{_shown(param)}: expected a path on this machine, found {text!r}",
                hint="get it here first, and give its path",
            )
        return super().convert(value, param, ctx)


class WrittenPath(ReadPath):
    """A path on this machine to write to: in no bundle and no store, which hold their own files only."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The `Path`. Raises UsageError, for a `box:path` of scp too."""
        from edgephi.store.place import check_not_within

        path = super().convert(value, param, ctx)
        text = os.fspath(value)
        if text == "-" or ":" in text.partition("/")[0]:
            raise UsageError(
                f"{_shown(param)}: expected a path on this machine, found {text!r}, which may be elsewhere",
                hint=f"write `{shell_command(path)}` for one here; "
                f"`{edgephi_command('flash')}` puts a bundle on a box",
            )
        check_not_within(path)
        return path


NAME = _Name()


def read_size(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    """A number of bytes as people write it, for an option: 4096, 500MB, 1.5GB, 2GiB. None stays None."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([kmg]?i?)b?", value.strip().lower())
    if found is None or found[2] not in _FACTORS:
        raise click.BadParameter(f"expected a size such as 500MB or 2GiB, found {value!r}")
    return int(float(found[1]) * _FACTORS[found[2]])


def _refuse_blank(text: str, param: click.Parameter | None) -> None:
    if not text.strip():
        raise UsageError(
            f"{_shown(param)}: expected a value, found {'an empty' if not text else 'a blank'} one",
            hint="is the variable set that it comes from?",
        )


def _shown(param: click.Parameter | None) -> str:
    """How a parameter is called in the help."""
    if param is None:
        return "argument"
    return (
        param.opts[-1] if isinstance(param, click.Option) else param.make_metavar(click.get_current_context())
    )
