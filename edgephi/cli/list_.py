"""`edgephi list`: what is kept on this machine, and how large it is."""

from pathlib import Path

import click

from edgephi.cli.argument_types import ReadPath
from edgephi.cli.options import json_option
from edgephi.cli.show.say import say, say_document
from edgephi.cli.show.table import table


@click.command(name="list")
@click.argument("folders", nargs=-1, type=ReadPath(), metavar="[FOLDER]...")
@json_option
def list_(folders: tuple[Path, ...], *, as_json: bool) -> None:
    """List bundles, stores and downloads, with their sizes.

    Bundles, stores, checkpoints and what a cut command has left are looked for in each FOLDER, which is this
    one when none is given, and in the folders in it. Downloads are those of the cache that Hugging Face's
    tools share. `edgephi rm NAME` removes what is listed, but for stores and checkpoints of your own.
    """
    from edgephi.cli.kept.find import find_kept
    from edgephi.cli.show.sizes import human_bytes
    from edgephi.errors import BadInputError

    for folder in folders:
        if not folder.is_dir():
            raise BadInputError(
                f"{folder}: expected a folder, found {'a file' if folder.exists() else 'none'}",
                hint="give the folder that bundles lie in",
            )
    found = list(find_kept(folders or (Path(),)))
    if as_json:
        say_document(
            [
                {
                    "kind": each.kind,
                    "name": each.name,
                    "place": str(each.place),
                    "size_bytes": each.size_bytes,
                    "about": each.about,
                }
                for each in found
            ]
        )
    elif found:
        rows = [(each.name, each.kind, human_bytes(each.size_bytes), each.about) for each in found]
        say(table(rows, ("name", "kind", "size", ""), right=(2,)))
    else:
        say("nothing: no bundles in this folder, and no downloads" if not folders else "nothing")
