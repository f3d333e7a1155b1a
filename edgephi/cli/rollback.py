"""`edgephi rollback`: back to the bundle that a device ran before."""

import json
from pathlib import Path

import click

from edgephi.cli.options import json_option


@click.command(no_args_is_help=True)
@click.argument("root")
@json_option
def rollback(root: str, *, as_json: bool) -> None:
    """Go back to the bundle that a device ran before.

    ROOT is the folder of a store, or ssh://[USER@]HOST[:PORT]/PATH. Needs no network. Doing it again goes
    forward again. A service goes on with the bundle that it has opened until it is started again.
    """
    from edgephi.cli.boxes import BoxSteps
    from edgephi.flash.destination import is_box, read_box
    from edgephi.records import write_record
    from edgephi.store.rollback import roll_back

    if is_box(root):
        from edgephi.flash import ssh_store

        with BoxSteps() as steps:
            done = ssh_store.roll_back(read_box(root), steps)
    else:
        done = roll_back(Path(root))
    if as_json:
        click.echo(json.dumps(write_record(done), indent=2, ensure_ascii=False))
        return
    left = f"; {done.left[:12]} was" if done.left else ""
    click.echo(f"{root}: {done.name}, release {done.sequence}, is active ({done.digest[:12]}){left}")
    if done.still_open:
        click.echo("a process goes on with the one before: restart what runs it")
