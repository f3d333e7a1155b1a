"""An empty argument, as of an unset variable, is a usage error of every command, and nothing happens."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgephi.cli.listing import COMMANDS
from edgephi.cli.main import cli
from edgephi.errors import UsageError
from tests.cli.conftest import Edgephi, is_one_error

# What stands for an argument or option that has to be there, so that the blank one is the only fault.
GIVEN = {
    "bundle": "BUNDLE",
    "bundles": "BUNDLE",
    "destinations": "store",
    "key": "KEY",
    "model": "demo",
    "name": "somebody",
    "output": "output",
    "prompt": "hello",
    "reference": "localhost:5000/phi:1",
    "root": "store",
    "source": "folder",
    "target_name": "cpu",
}
# Texts: an empty one is a text, or has an error of its own.
TEXTS = {"prompt", "stop", "system", "text"}


def leaves(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command, or the commands of a group, by the words that call them."""
    if isinstance(command, click.Group):
        for inner, each in command.commands.items():
            yield from leaves(f"{name} {inner}", each)
    else:
        yield name, command


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by the words that call it."""
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield from leaves(name, command)


def calls() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every command, and its arguments in a call that names nothing which is there."""
    for words, leaf in commands():
        yield words, words_for(leaf, None)


def blanks() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Of every command, each argument and option that is text: command, its name, all words of the call."""
    for words, leaf in commands():
        for blank in leaf.params:
            if isinstance(blank.type, click.types.BoolParamType | click.IntRange | click.FloatRange):
                continue
            if blank.name not in {*TEXTS, "help"}:
                assert blank.name is not None
                yield words, blank.name, words_for(leaf, blank)


def words_for(leaf: click.Command, blank: click.Parameter | None) -> tuple[str, ...]:
    """What has to stand behind a command, and the parameter `blank` as NUL."""
    call = []
    for each in leaf.params:
        value = "\0" if each is blank else GIVEN.get(each.name or "", "x")
        if isinstance(each, click.Argument):
            call.append(value)
        elif each is blank or each.required:
            call += [each.opts[-1], value]
    return tuple(call)


@pytest.mark.parametrize("blank", ["", " ", "\t\n"], ids=["empty", "space", "lines"])
@pytest.mark.parametrize(("command", "name", "call"), list(blanks()), ids=lambda value: str(value)[:20])
def test_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: str,
    name: str,
    call: tuple[str, ...],
    blank: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*command.split(), *(blank if word == "\0" else word for word in call)]
    with pytest.raises((UsageError, click.UsageError)) as refused:
        cli.main(words, standalone_mode=False)
    message = getattr(refused.value, "message", "")
    assert len(message) > len("expected")
    assert list(tmp_path.iterdir()) == []


def test_as_a_shell_sees_it(edgephi: Edgephi, tmp_path: Path, demo_bundle: Path) -> None:
    done = edgephi("flash", demo_bundle, "", cwd=tmp_path)
    assert is_one_error(done, 2)
    assert done.stderr.startswith(
        "error: DEST...: expected a value, found an empty one\nhint: is the variable"
    )
    assert list(tmp_path.iterdir()) == []
