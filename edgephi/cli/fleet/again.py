"""The command that goes on with the stores where it failed, as it was called else."""

from collections.abc import Iterator, Sequence
from os import PathLike

import click

from edgephi.commands import Word, edgephi_command, place

STORES = frozenset({"destinations", "roots"})
"""Parameters of commands that name stores."""


def again(stores: Sequence[str]) -> str:
    """The command that runs now, for these stores instead of those that it was given."""
    context = click.get_current_context()
    words: list[Word] = list(context.command_path.split()[1:])
    given = [
        each
        for each in context.command.params
        if context.get_parameter_source(each.name or "") is click.core.ParameterSource.COMMANDLINE
    ]
    for argument in (each for each in given if isinstance(each, click.Argument)):
        if argument.name in STORES:
            words += map(place, stores)
        else:
            words += _words(context.params[argument.name or ""])
    for option in (each for each in given if isinstance(each, click.Option)):
        words += _option(option, context.params[option.name or ""])
    return edgephi_command(*words)


def _option(option: click.Option, value: object) -> Iterator[Word]:
    name = option.opts[-1]
    if option.is_flag:
        yield name
        return
    for each in value if isinstance(value, tuple) else (value,):
        yield name
        yield each if isinstance(each, PathLike) else str(each)


def _words(value: object) -> Iterator[Word]:
    if value is not None:
        yield value if isinstance(value, PathLike) else place(str(value))
