"""`edgephi rm`: remove bundles, downloads, and what a cut command has left."""

import sys

import click

from edgephi.cli.argument_types import NAME
from edgephi.cli.completion import complete_bundle
from edgephi.cli.options import json_option
from edgephi.cli.show.say import say, say_document
from edgephi.cli.terminal.signals_while_typing import signals_arrive
from edgephi.errors import UsageError


@click.command(no_args_is_help=True)
@click.argument(
    "names", nargs=-1, required=True, type=NAME, metavar="NAME...", shell_complete=complete_bundle
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
def rm(names: tuple[str, ...], *, yes: bool, as_json: bool) -> None:
    """Remove bundles, downloads, and what a cut command has left.

    NAME is one of `edgephi list`: a bundle's folder, the id of a downloaded model, or what was cut. What a
    process uses is not removed, nor anything in a store (see `edgephi gc`), nor what edgephi has not written.
    """
    from edgephi.cli.kept.remove import find_removable, remove
    from edgephi.cli.show.sizes import human_bytes

    found = list({kept.place.absolute(): kept for kept in map(find_removable, names)}.values())
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError(
                "expected a terminal to ask on, found none", hint="--yes removes without being asked"
            )
        for kept in found:
            say(f"{kept.name}: {kept.kind}, {human_bytes(kept.size_bytes)}, {kept.about}", err=True)
        what = "it" if len(found) == 1 else f"all {len(found)}"
        with signals_arrive():
            is_wanted = click.confirm(f"Remove {what}?", err=True)
        if not is_wanted:
            say("nothing removed", err=True)
            return
    for kept in found:
        remove(kept)
        if not as_json:
            say(f"removed {kept.name}, {human_bytes(kept.size_bytes)}")
    if as_json:
        removed = [{"kind": kept.kind, "name": kept.name, "size_bytes": kept.size_bytes} for kept in found]
        say_document({"removed": removed})
