"""What `edgephi run` can hold an answer to: --schema, --regex and --grammar."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgephi.cli.argument_types import NAME, ReadPath
from edgephi.cli.text_file import read_text


def rules_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The three options, and a command that gets them as `rules`: members of Options by their names."""

    @functools.wraps(command)
    def with_rules(
        *arguments: Any, schema: Path | None, regex: str | None, grammar: Path | None, **values: Any
    ) -> Any:
        files = {"json_schema": schema, "grammar": grammar}
        texts = {name: None if file is None else read_text(file) for name, file in files.items()}
        rules = {**texts, "regex": regex}
        return command(*arguments, rules=rules, **values)

    for option in (_grammar, _regex, _schema):
        with_rules = option(with_rules)
    return with_rules


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
