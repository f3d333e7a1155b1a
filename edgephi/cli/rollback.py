"""`edgephi rollback`: back to the bundle that a device ran before."""

import click

from edgephi.cli.options import json_option, root_argument
from edgephi.cli.show.say import say, say_document
from edgephi.errors import UsageError
from edgephi.guards.visible import visible


@click.command(no_args_is_help=True)
@root_argument
@click.option(
    "--elsewhere",
    is_flag=True,
    help="ROOT is on the disk of another machine: leave out what only that one can tell, the probe too.",
)
@json_option
def rollback(root: str, *, elsewhere: bool, as_json: bool) -> None:
    """Go back to the bundle that a device ran before.

    ROOT is the folder of a store, or ssh://[USER@]HOST[:PORT]/PATH. Needs no network. Doing it again goes
    forward again. A service goes on with the bundle that it has opened until it is started again.

    The bundle is checked as one that is flashed: signed by a key that is trusted now, not below the security
    floor, every byte as it was installed; and it must answer as it did when it was built. If not, nothing
    changes. Exit code 4: it is damaged, or no key vouches for it. Exit code 5: it did not answer as it must.
    """
    from edgephi.cli.show.boxes import BoxSteps
    from edgephi.cli.show.outcome import answered_lines
    from edgephi.cli.show.progress import transfer
    from edgephi.flash.destination import Box, read_destination
    from edgephi.records import write_record
    from edgephi.store.disk.lock import LOCK_WAIT_SECONDS
    from edgephi.store.rollback import roll_back

    store = read_destination(root)
    if isinstance(store, Box):
        from edgephi.flash.ssh import upkeep

        if elsewhere:
            raise UsageError("--elsewhere: expected with a folder, found ssh://…", hint="leave it out")
        with BoxSteps() as steps:
            done = upkeep.roll_back(store, steps)
    else:
        done = roll_back(store, prove=not elsewhere, lock_wait_seconds=LOCK_WAIT_SECONDS, step=transfer)
    if as_json:
        say_document(write_record(done))
        return
    left = f"; {done.left[:12]} was" if done.left else ""
    lines = [f"{root}: {visible(done.name)}, release {done.sequence}, is active ({done.digest[:12]}){left}"]
    lines += answered_lines(done.probe, done.signer)
    if done.still_open:
        lines.append("a process goes on with the one before: restart what runs it")
    say("\n".join(lines))
