"""`edgephi gc`: remove from a device what nothing needs."""

import click

from edgephi.cli.options import json_option, root_argument
from edgephi.cli.show.say import say, say_document


@click.command(no_args_is_help=True)
@root_argument
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--unfinished", is_flag=True, help="Remove a transfer that was cut too; it could have gone on.")
@json_option
def gc(root: str, *, dry_run: bool, unfinished: bool, as_json: bool) -> None:
    """Remove from a device what nothing needs.

    ROOT is the folder of a store, or ssh://[USER@]HOST[:PORT]/PATH. What stays is the current bundle, the
    previous one, and those that a process has open or a systemd unit names.
    """
    from edgephi.cli.show.boxes import BoxSteps
    from edgephi.cli.show.progress import transfer
    from edgephi.cli.show.sizes import human_bytes
    from edgephi.flash.destination import Box, read_destination
    from edgephi.records import write_record
    from edgephi.store.disk.lock import LOCK_WAIT_SECONDS
    from edgephi.store.garbage import collect_garbage

    store = read_destination(root)
    if isinstance(store, Box):
        from edgephi.flash.ssh import upkeep

        with BoxSteps() as steps:
            done = upkeep.collect_garbage(store, dry_run=dry_run, unfinished=unfinished, watcher=steps)
    else:
        done = collect_garbage(
            store,
            dry_run=dry_run,
            unfinished=unfinished,
            lock_wait_seconds=LOCK_WAIT_SECONDS,
            step=transfer,
        )
    if as_json:
        say_document(write_record(done))
        return
    what = [", ".join(digest[:12] for digest in done.generations)] if done.generations else []
    what += [f"{done.objects} file{'' if done.objects == 1 else 's'}"] if done.objects else []
    if not what and done.freed_bytes:
        what = ["an unfinished transfer"]
    would = "would remove" if dry_run else "removed"
    if what:
        say(f"{root}: {would} {' and '.join(what)}, {human_bytes(done.freed_bytes)}")
    else:
        say(f"{root}: nothing to remove")
    for digest in done.still_open:
        say(f"kept {digest[:12]}: a process has it open")
    for digest in done.in_units:
        say(f"kept {digest[:12]}: a systemd unit names it")
