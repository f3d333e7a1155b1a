"""What `edgephi recipes` and `edgephi targets` have in common: one line each, and the file of one."""

from collections.abc import Callable, Sequence
from typing import Protocol

import click

from edgephi.cli.argument_types import NAME
from edgephi.cli.completion import complete_declared
from edgephi.cli.options import json_option
from edgephi.cli.show.say import say, say_document, say_exactly
from edgephi.cli.show.table import table
from edgephi.cli.suggestions import SuggestingGroup
from edgephi.declared.toml_files import find_file


class Declared(Protocol):
    """A recipe or a target, as far as a list shows it."""

    @property
    def name(self) -> str:
        """The name to use on the command line."""

    @property
    def summary(self) -> str:
        """One line about it."""


def list_command(folder: str, read_all: Callable[[], Sequence[Declared]], about: str) -> click.Group:
    """A group that lists all declarations of a kind, with a subcommand `show NAME`."""

    @click.group(
        cls=SuggestingGroup,
        name=folder,
        invoke_without_command=True,
        help=f"{about}\n\n`show NAME` prints one as TOML.",
    )
    @json_option
    @click.pass_context
    def group(context: click.Context, *, as_json: bool) -> None:
        if context.invoked_subcommand is not None:
            return
        declared = [(each.name, each.summary) for each in read_all()]
        if as_json:
            say_document([{"name": name, "summary": text} for name, text in declared])
        else:
            say(table(declared))

    @group.command()
    @click.argument("name", type=NAME, shell_complete=complete_declared(folder))
    def show(name: str) -> None:
        """Print the TOML file NAME: a start for one of your own."""
        say_exactly(find_file(name, folder).read_text(encoding="utf-8"), nl=False)

    return group
