"""What `edgephi run` can hold an answer to: --schema, --regex and --grammar."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgephi.cli.argument_types import NAME, ReadPath
from edgephi.cli.system_message import utf8_text
from edgephi.errors import from_os_error


def _text_of(_context: click.Context, _option: click.Parameter, file: Path | None) -> str | None:
    """The text of the file that an option names. Raises BadInputError."""
    if file is None:
        return None
    try:
        return utf8_text(file.read_bytes(), file).removeprefix("\ufeff")
    except OSError as cause:
        raise from_os_error(cause, place=file) from None


def rules_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The three options, whose values are the members of Options `json_schema`, `regex` and `grammar`."""
    for option in (_grammar, _regex, _schema):
        command = option(command)
    return command


_schema = click.option(
    "--schema",
    "json_schema",
    type=ReadPath(),
    callback=_text_of,
    metavar="FILE",
    help="Hold the answer to this JSON schema.",
)
_regex = click.option(
    "--regex",
    type=NAME,
    metavar="REGEX",
    help="Hold the answer to this regular expression, which all of it matches.",
)
_grammar = click.option(
    "--grammar",
    type=ReadPath(),
    callback=_text_of,
    metavar="FILE",
    help="Hold the answer to this grammar: Lark's as llguidance reads it, or llama.cpp's GBNF.",
)
