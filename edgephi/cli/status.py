"""`edgephi status`: what is on a device, and how it is."""

from typing import TYPE_CHECKING

import click

from edgephi.cli.options import json_option, root_argument
from edgephi.cli.show.say import say, say_document
from edgephi.commands import edgephi_command, place
from edgephi.errors import BadBundleError
from edgephi.guards.visible import visible

if TYPE_CHECKING:
    from edgephi.store.status import GenerationStatus, StoreStatus

_DATE_COLUMNS = 10  # of "2026-11-25T08:47:27Z"


@click.command(no_args_is_help=True)
@root_argument
@click.option("--scrub", is_flag=True, help="Read all of it, and say which chunks have changed on the disk.")
@json_option
def status(root: str, *, scrub: bool, as_json: bool) -> None:
    """Show what is on a device, and how it is.

    ROOT is the folder of a store, or ssh://[USER@]HOST[:PORT]/PATH. What a power cut left is put right first.
    Exit code 4 when something is damaged: flash the same bundle again, and only what has changed is sent.
    What no key vouches for, where the store asks for one, is named and is not damaged.
    """
    from edgephi.cli.show.boxes import BoxSteps
    from edgephi.cli.show.mending import mending
    from edgephi.cli.show.progress import transfer
    from edgephi.flash.destination import Box, read_destination
    from edgephi.records import write_record
    from edgephi.store.disk.lock import LOCK_WAIT_SECONDS
    from edgephi.store.status import status as store_status

    store = read_destination(root)
    if isinstance(store, Box):
        from edgephi.flash.ssh import upkeep

        with BoxSteps() as steps:
            found = upkeep.status(store, scrub_too=scrub, watcher=steps)
    else:
        found = store_status(store, scrub_too=scrub, lock_wait_seconds=LOCK_WAIT_SECONDS, step=transfer)
    if as_json:
        say_document(write_record(found))
    else:
        say(_summary(root, found))
    scrubbed = {each.digest for each in found.damages or ()}
    damaged = [each for each in found.generations if each.problem or each.digest in scrubbed]
    if damaged:
        raise BadBundleError(
            f"{root}: expected every file as it was installed, found {damaged[0].digest[:12]} damaged",
            hint=mending(root, damaged[0], keys_problem=found.keys_problem),
        )


def _summary(root: str, found: "StoreStatus") -> str:
    from edgephi.cli.show.sizes import human_bytes
    from edgephi.cli.show.table import table
    from edgephi.cli.show.unvouched import unvouched_lines

    lines = []
    if found.recovery.ended_trial:
        lines.append(f"put right: the trial of {found.recovery.ended_trial[:12]} was cut short and is undone")
    if found.recovery.rebuilt_state:
        lines.append("put right: state.json was damaged and is written anew")
    if found.busy_with:
        lines.append(f"right now: {visible(found.busy_with)}")
    if found.generations:
        header = ("", "generation", "bundle", "release", "created", "size", "state")
        rows = [
            (
                "" if each.role == "other" else each.role,
                each.digest[:12],
                each.name,
                str(each.sequence),
                each.created[:_DATE_COLUMNS],
                human_bytes(each.size_bytes),
                _state(each),
            )
            for each in found.generations
        ]
        lines.append(table(rows, header, right=(3, 5)))
    else:
        lines.append("no bundle")
    unfinished = (
        f", {human_bytes(found.unfinished_bytes)} of an unfinished transfer" if found.unfinished_bytes else ""
    )
    lines.append(
        f"{human_bytes(found.stored_bytes)} stored{unfinished}, {human_bytes(found.free_bytes)} free"
    )
    lines += [
        f"damaged: {each.digest[:12]}: {visible(each.problem)}" for each in found.generations if each.problem
    ]
    for damage in found.damages or ():
        if damage.environment:
            folder = f"envs/{visible(damage.environment)[:12]}…"
            lines.append(f"damaged: {folder}/{visible(damage.path)}: is not as it was made")
            continue
        where = f"{damage.size} bytes at {damage.offset}" if damage.size else "is missing"
        lines.append(f"damaged: {damage.digest[:12]}/{visible(damage.path)}: {where}")
    if found.keys_problem:
        again = edgephi_command("trust", "add", place(root), "NAME.pub")
        lines.append(f"closed: {visible(found.keys_problem)}; add the keys again: `{again}`")
    lines += unvouched_lines(root, [each for each in found.generations if each.unvouched])
    if found.damages == ():
        lines.append("scrub: every byte is as it was installed")
    return "\n".join(lines)


def _state(generation: "GenerationStatus") -> str:
    if generation.problem:
        return "damaged"
    facts = ["in use"] if generation.is_open else []
    if not generation.is_proven:
        facts.append("not proven here")
    if generation.unvouched:
        facts.append("no key")
    return ", ".join(facts) or "ok"
