"""What `edgephi run` can hold an answer to: --schema, --regex and --grammar."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgephi.cli.argument_types import NAME, ReadPath
from edgephi.cli.system_message import utf8_text
from edgephi.errors import from_os_error


def rules_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The three options, and a command that gets them as `rules`: members of Options by their names."""

    @functools.wraps(command)
    def with_rules(
        *arguments: Any, schema: Path | None, regex: str | None, grammar: Path | None, **values: Any
    ) -> Any:
        rules = {"json_schema": _text_of(schema), "regex": regex, "grammar": _text_of(grammar)}
        return command(*arguments, rules=rules, **values)

    for option in (_grammar, _regex, _schema):
        with_rules = option(with_rules)
    return with_rules


def _text_of(file: Path | None) -> str | None:
    """The text of a file that an option names. Raises BadInputError."""
    if file is None:
        return None
    try:
        return utf8_text(file.read_bytes(), file).removeprefix("\ufeff")
    except OSError as cause:
        raise from_os_error(cause, place=file) from None


_schema = click.option(
    "--schema",
    type=ReadPath(),
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
    metavar="FILE",
    help="Hold the answer to this grammar: Lark's as llguidance reads it, or llama.cpp's GBNF.",
)
