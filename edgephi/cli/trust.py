"""`edgephi trust`: whose bundles a store takes."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgephi.cli.argument_types import NAME, ReadPath
from edgephi.cli.options import json_option, root_argument
from edgephi.cli.show.say import say, say_document
from edgephi.cli.suggestions import SuggestingGroup
from edgephi.commands import edgephi_command, place
from edgephi.errors import UsageError
from edgephi.guards.visible import visible

if TYPE_CHECKING:
    from edgephi.store.trust.change import KeyChange

_TRUSTS_NOBODY = "{} trusts nobody in particular: it takes bundles that are not signed"


@click.group(cls=SuggestingGroup, no_args_is_help=True)
def trust() -> None:
    """Say whose bundles a store takes.

    Without a key, a store takes every bundle. With one, it takes those alone that this key has signed. It
    remembers that there was a key: if its keys are lost, it takes no bundle until one is added again.
    ROOT is the folder of a store, which may be new, or ssh://[USER@]HOST[:PORT]/PATH.
    """


@trust.command(no_args_is_help=True)
@root_argument
@click.argument("key", type=ReadPath())
@json_option
def add(root: str, key: Path, *, as_json: bool) -> None:
    """Take bundles that the key in file KEY (NAME.pub) has signed."""
    from edgephi.cli.show.boxes import BoxSteps
    from edgephi.flash.destination import Box, read_destination
    from edgephi.store.trust.change import trust_key
    from edgephi.store.trust.trusted_keys import read_key_file

    new = read_key_file(key)
    store = read_destination(root)
    if isinstance(store, Box):
        from edgephi.flash.ssh import upkeep

        with BoxSteps() as steps:
            added = upkeep.trust_key(store, key.name, new.key.pem, steps)
    else:
        added = trust_key(store, key.name, new.key.pem)
    _say_change(root, "trusts", added, as_json=as_json)


@trust.command("list", no_args_is_help=True)
@root_argument
@json_option
def list_keys(root: str, *, as_json: bool) -> None:
    """Show the keys of a store, by name and fingerprint."""
    from edgephi.cli.show.boxes import BoxSteps
    from edgephi.cli.show.table import table
    from edgephi.flash.destination import Box, read_destination
    from edgephi.records import write_record
    from edgephi.store.trust.change import trusted

    store = read_destination(root)
    if isinstance(store, Box):
        from edgephi.flash.ssh import upkeep

        with BoxSteps() as steps:
            keys = upkeep.trusted(store, steps).keys
    else:
        keys = trusted(store).keys
    if as_json:
        say_document(write_record(keys))
    elif keys:
        say(table([(each.name, each.fingerprint) for each in keys], ("name", "fingerprint")))
    else:
        say(_TRUSTS_NOBODY.format(root))


@trust.command(no_args_is_help=True)
@root_argument
@click.argument("key", type=NAME, required=False)
@click.option("--last", is_flag=True, help="Also when it is the last key; then every bundle is taken.")
@json_option
def remove(root: str, key: str | None, *, last: bool, as_json: bool) -> None:
    """Take no more bundles of KEY: its name, or the beginning of its fingerprint.

    What it has signed and is installed stays, and is named: what is active runs on until another bundle is
    flashed, and nothing goes back to it afterwards. With --last and without KEY, a store whose keys are lost
    takes every bundle again.
    """
    from edgephi.cli.show.boxes import BoxSteps
    from edgephi.flash.destination import Box, read_destination
    from edgephi.store.trust.change import distrust_key, require_no_key

    store = read_destination(root)
    if key is None:
        if not last:
            raise UsageError(
                "KEY: expected the name of a key, or the beginning of its fingerprint, found none",
                hint=f"`{edgephi_command('trust', 'list', place(root))}` shows the keys",
            )
        if isinstance(store, Box):
            from edgephi.flash.ssh import upkeep

            with BoxSteps() as steps:
                upkeep.require_no_key(store, steps)
        else:
            require_no_key(store)
        if as_json:
            say_document([])
        else:
            say(_TRUSTS_NOBODY.format(root))
        return
    if isinstance(store, Box):
        from edgephi.flash.ssh import upkeep

        with BoxSteps() as steps:
            removed = upkeep.distrust_key(store, key, also_the_last=last, watcher=steps)
    else:
        removed = distrust_key(store, key, also_the_last=last)
    _say_change(root, "no longer trusts", removed, as_json=as_json)


def _say_change(root: str, does: str, change: "KeyChange", *, as_json: bool) -> None:
    """Say which key came or went, and what no key vouches for now."""
    from edgephi.cli.show.unvouched import unvouched_lines
    from edgephi.records import write_record

    if as_json:
        say_document(write_record(change))
        return
    lines = [f"{root} {does} {visible(change.name)}: {visible(change.fingerprint)}"]
    say("\n".join(lines + unvouched_lines(root, change.unvouched)))
