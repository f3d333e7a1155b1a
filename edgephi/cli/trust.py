"""`edgephi trust`: whose bundles a store takes."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgephi.cli.argument_types import NAME, ReadPath
from edgephi.cli.options import boxes_option, json_option, parallel_option, roots_argument
from edgephi.cli.show.say import say, say_document
from edgephi.cli.suggestions import SuggestingGroup
from edgephi.commands import edgephi_command, place
from edgephi.errors import UsageError
from edgephi.guards.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgephi.cli.fleet.ask import StoreAnswer
    from edgephi.cli.fleet.stores import Store
    from edgephi.flash.destination import Box
    from edgephi.flash.ssh.transfer import Watcher
    from edgephi.steps import Step
    from edgephi.store.trust.change import KeyChange, Trusted

_TRUSTS_NOBODY = "{} trusts nobody in particular: it takes bundles that are not signed"


@click.group(cls=SuggestingGroup, no_args_is_help=True)
def trust() -> None:
    """Say whose bundles a store takes.

    Without a key, a store takes every bundle. With one, it takes those alone that this key has signed. It
    remembers that there was a key: if its keys are lost, it takes no bundle until one is added again.
    ROOT is the folder of a store, which may be new, or ssh://[USER@]HOST[:PORT]/PATH; there may be several.
    """


@trust.command(no_args_is_help=True)
@roots_argument
@click.argument("key", type=ReadPath())
@boxes_option
@parallel_option("tell")
@json_option
def add(roots: tuple[str, ...], key: Path, *, boxes_file: Path | None, parallel: int, as_json: bool) -> None:
    """Take bundles that the key in file KEY (NAME.pub) has signed."""
    from edgephi.cli.fleet.ask import ask_stores
    from edgephi.cli.fleet.stores import read_stores
    from edgephi.store.trust.change import trust_key
    from edgephi.store.trust.trusted_keys import read_key_file

    new = read_key_file(key)

    def here(root: Path, _step: "Step") -> "KeyChange":
        return trust_key(root, key.name, new.key.pem)

    async def there(box: "Box", watcher: "Watcher") -> "KeyChange":
        from edgephi.flash.ssh import upkeep

        return await upkeep.trust_key(box, key.name, new.key.pem, watcher)

    answers = ask_stores(read_stores(roots, boxes_file), here, there, parallel=parallel)
    _say_changes(answers, "trusts", as_json=as_json)


@trust.command("list", no_args_is_help=True)
@roots_argument
@boxes_option
@parallel_option("ask")
@json_option
def list_keys(roots: tuple[str, ...], *, boxes_file: Path | None, parallel: int, as_json: bool) -> None:
    """Show the keys of a store, by name and fingerprint."""
    from edgephi.cli.fleet.ask import ask_stores
    from edgephi.cli.fleet.stores import read_stores
    from edgephi.store.trust.change import trusted

    def here(root: Path, _step: "Step") -> "Trusted":
        return trusted(root)

    async def there(box: "Box", watcher: "Watcher") -> "Trusted":
        from edgephi.flash.ssh import upkeep

        return await upkeep.trusted(box, watcher)

    _say_keys(ask_stores(read_stores(roots, boxes_file), here, there, parallel=parallel), as_json=as_json)


@trust.command(no_args_is_help=True)
@click.argument("roots", type=NAME, nargs=-1, metavar="ROOT...")
@click.argument("key", type=NAME, required=False)
@click.option("--last", is_flag=True, help="Also when it is the last key; then every bundle is taken.")
@boxes_option
@parallel_option("tell")
@json_option
@click.pass_context
def remove(
    context: click.Context,
    roots: tuple[str, ...],
    key: str | None,
    *,
    last: bool,
    boxes_file: Path | None,
    parallel: int,
    as_json: bool,
) -> None:
    """Take no more bundles of KEY: its name, or the beginning of its fingerprint.

    What it has signed and is installed stays, and is named: what is active runs on until another bundle is
    flashed, and nothing goes back to it afterwards. With --last and without KEY, a store whose keys are lost
    takes every bundle again; of several words, the last one is KEY unless it is ssh://….
    """
    from edgephi.cli.fleet.ask import ask_stores
    from edgephi.cli.fleet.stores import read_stores
    from edgephi.flash.destination import is_box
    from edgephi.store.trust.change import distrust_key

    if key is not None and (not roots or is_box(key)):  # without KEY, that was the last ROOT
        roots, key = (*roots, key), None
        context.params |= {"roots": roots, "key": key}
    stores = read_stores(roots, boxes_file)
    if key is None and not last:
        command = edgephi_command("trust", "list", *(place(each.destination) for each in stores))
        raise UsageError(
            "KEY: expected the name of a key, or the beginning of its fingerprint, found none",
            hint=f"`{command}` shows the keys",
        )
    if key is None:
        _require_no_key(stores, parallel=parallel, as_json=as_json)
        return
    which = key

    def here(root: Path, _step: "Step") -> "KeyChange":
        return distrust_key(root, which, also_the_last=last)

    async def there(box: "Box", watcher: "Watcher") -> "KeyChange":
        from edgephi.flash.ssh import upkeep

        return await upkeep.distrust_key(box, which, also_the_last=last, watcher=watcher)

    answers = ask_stores(stores, here, there, parallel=parallel)
    _say_changes(answers, "no longer trusts", as_json=as_json)


def _require_no_key(stores: "Sequence[Store]", *, parallel: int, as_json: bool) -> None:
    """Have stores whose keys are lost take every bundle again."""
    from edgephi.cli.fleet.ask import ask_stores
    from edgephi.store.trust.change import Trusted, require_no_key

    def here(root: Path, _step: "Step") -> Trusted:
        require_no_key(root)
        return Trusted(())

    async def there(box: "Box", watcher: "Watcher") -> Trusted:
        from edgephi.flash.ssh import upkeep

        await upkeep.require_no_key(box, watcher)
        return Trusted(())

    _say_keys(ask_stores(stores, here, there, parallel=parallel), as_json=as_json)


def _say_keys(answers: "Sequence[StoreAnswer[Trusted]]", *, as_json: bool) -> None:
    """Say which keys stores have."""
    from edgephi.cli.fleet.ask import say_answers
    from edgephi.cli.show.table import table
    from edgephi.records import write_record

    def row(found: "Trusted") -> tuple[str, ...]:
        return (", ".join(f"{each.name} ({each.fingerprint[:12]})" for each in found.keys) or "none",)

    if len(answers) > 1:
        raise click.exceptions.Exit(say_answers(answers, ("keys",), row, write_record, as_json=as_json))
    found = answers[0].answer
    assert found is not None  # noqa: S101 - else its error was raised
    if as_json:
        say_document(write_record(found.keys))
    elif found.keys:
        say(table([(each.name, each.fingerprint) for each in found.keys], ("name", "fingerprint")))
    else:
        say(_TRUSTS_NOBODY.format(answers[0].store.destination))


def _say_changes(answers: "Sequence[StoreAnswer[KeyChange]]", does: str, *, as_json: bool) -> None:
    """Say which key came or went, and what no key vouches for now."""
    from edgephi.cli.fleet.ask import say_answers
    from edgephi.cli.show.unvouched import unvouched_lines
    from edgephi.records import write_record

    def row(change: "KeyChange") -> tuple[str, ...]:
        return does, change.name, change.fingerprint[:12], str(len(change.unvouched))

    if len(answers) > 1:
        header = ("result", "key", "fingerprint", "without a key")
        raise click.exceptions.Exit(
            say_answers(answers, header, row, write_record, as_json=as_json, right=(3,))
        )
    change, root = answers[0].answer, answers[0].store.destination
    assert change is not None  # noqa: S101 - else its error was raised
    if as_json:
        say_document(write_record(change))
        return
    lines = [f"{root} {does} {visible(change.name)}: {visible(change.fingerprint)}"]
    say("\n".join(lines + unvouched_lines(root, change.unvouched)))
