"""`edgephi trust`: whose bundles a store takes."""

import json
from pathlib import Path

import click

from edgephi.cli.options import json_option

root_argument = click.argument("root", type=click.Path(path_type=Path))


@click.group(no_args_is_help=True)
def trust() -> None:
    """Say whose bundles a store takes.

    Without a key, a store takes every bundle. With one, it takes those alone that this key has signed.
    ROOT is a folder, on the device itself or mounted; it may be new.
    """


@trust.command(no_args_is_help=True)
@root_argument
@click.argument("key", type=click.Path(path_type=Path))
def add(root: Path, key: Path) -> None:
    """Take bundles that the key in file KEY (NAME.pub) has signed."""
    from edgephi.store.durable import make_folder
    from edgephi.store.layout import Layout, check_root
    from edgephi.store.trusted_keys import add_key, read_key_file

    new = read_key_file(key)
    check_root(root)
    layout = Layout(root)
    make_folder(layout.root)
    make_folder(layout.trust)
    added = add_key(layout.trust, new)
    click.echo(f"{root} trusts {added.name}: {added.key.fingerprint}")


@trust.command("list", no_args_is_help=True)
@root_argument
@json_option
def list_keys(root: Path, *, as_json: bool) -> None:
    """Show the keys of a store, by name and fingerprint."""
    from edgephi.cli.table import table
    from edgephi.store.trusted_keys import read_trusted_keys

    keys = read_trusted_keys(_trust_folder(root))
    if as_json:
        document = [{"name": each.name, "fingerprint": each.key.fingerprint} for each in keys]
        click.echo(json.dumps(document, indent=2))
    elif keys:
        click.echo(table([(each.name, each.key.fingerprint) for each in keys], ("name", "fingerprint")))
    else:
        click.echo(f"{root} trusts nobody in particular: it takes bundles that are not signed")


@trust.command(no_args_is_help=True)
@root_argument
@click.argument("key")
@click.option("--last", is_flag=True, help="Also when it is the last key; then every bundle is taken.")
def remove(root: Path, key: str, *, last: bool) -> None:
    """Take no more bundles of KEY: its name, or the beginning of its fingerprint.

    What it has signed and is installed stays.
    """
    from edgephi.store.trusted_keys import remove_key

    removed = remove_key(_trust_folder(root), key, also_the_last=last)
    click.echo(f"{root} no longer trusts {removed.name}: {removed.key.fingerprint}")


def _trust_folder(root: Path) -> Path:
    """The folder of keys of the store at `root`, which must be there: a mistyped ROOT has no keys either."""
    from edgephi.errors import UsageError
    from edgephi.store.layout import Layout, check_root

    check_root(root)
    folder = Layout(root).trust
    if not folder.is_dir():
        raise UsageError(f"{root}: expected a store, found none", hint="give the folder that you flash to")
    return folder
