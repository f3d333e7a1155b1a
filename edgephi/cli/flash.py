"""`edgephi flash`: put a bundle on a device so that it always has a working model."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgephi.cli.options import json_option

if TYPE_CHECKING:
    from edgephi.store.install import Outcome


@click.command(no_args_is_help=True)
@click.argument("bundle")
@click.argument("destination", metavar="DEST")
@click.option(
    "--allow-downgrade",
    is_flag=True,
    help="Take a release older than the newest that the store has had; never one below its security floor.",
)
@click.option(
    "--elsewhere",
    is_flag=True,
    help="DEST is the disk of another machine: leave out what only that one can tell, the probe too.",
)
@json_option
def flash(bundle: str, destination: str, *, allow_downgrade: bool, elsewhere: bool, as_json: bool) -> None:
    """Put a bundle on a device so that it always has a working model.

    DEST is the folder of a store, on this machine or on a mounted disk. All that the manifest tells is
    checked before a byte of the model moves: signature, release, architecture, engine, memory, disk. What
    DEST has already, in any bundle, is not sent again, and a transfer that was cut goes on. The new bundle
    must answer as it did when it was built; only then, in one step, it becomes the active one.

    `edgephi run DEST` runs the active one. Exit code 5: the new one did not answer as it must, and what was
    active still is.
    """
    from edgephi.cli.steps import transfer
    from edgephi.flash.folder import flash_folder
    from edgephi.records import write_record
    from edgephi.store.preflight import InstallOptions

    options = InstallOptions(allow_downgrade=allow_downgrade, prove=not elsewhere)
    start = time.perf_counter()
    outcome = flash_folder(Path(bundle), Path(destination), options, step=transfer)
    seconds = time.perf_counter() - start
    if as_json:
        document = {
            "destination": destination,
            "seconds": round(seconds, 3),
            **write_record(outcome),
        }
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    click.echo(_summary(destination, outcome, seconds))


def _summary(destination: str, outcome: "Outcome", seconds: float) -> str:
    """What was done, in a few lines."""
    from edgephi.cli.sizes import human_bytes

    total = outcome.sent_bytes + outcome.saved_bytes
    share = outcome.sent_bytes / total if total else 0.0
    is_active = "was active already" if outcome.was_current else "is active"
    lines = [
        f"{destination}: {outcome.name}, release {outcome.sequence}, {is_active} ({outcome.digest[:12]})",
        f"sent {human_bytes(outcome.sent_bytes)} ({share:.1%}), saved {human_bytes(outcome.saved_bytes)}, "
        f"in {seconds:.1f} s",
    ]
    probe = outcome.probe
    if probe is not None:
        lines.append(
            f"probe: it answered at {probe.tokens_per_second:,.1f} tokens/s, "
            f"with {human_bytes(probe.memory_bytes)} of memory"
        )
    elif not outcome.was_current:
        lines.append("not proven: the machine that it is for has to answer with it")
    if outcome.signer is not None:
        lines.append(f"signed by {outcome.signer}")
    if outcome.previous is not None:
        lines.append(f"before: {outcome.previous[:12]}; `edgephi rollback {destination}` goes back to it")
    return "\n".join(lines)
