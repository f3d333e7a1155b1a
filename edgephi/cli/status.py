"""`edgephi status`: what is on a device, and how it is."""

from typing import TYPE_CHECKING

import click

from edgephi.cli.options import boxes_option, json_option, parallel_option, roots_argument
from edgephi.cli.show.say import error_lines, say, say_document
from edgephi.commands import edgephi_command, place
from edgephi.errors import BadBundleError
from edgephi.guards.visible import visible

if TYPE_CHECKING:
    from pathlib import Path

    from edgephi.flash.destination import Box
    from edgephi.flash.ssh.transfer import Watcher
    from edgephi.steps import Step
    from edgephi.store.status import GenerationStatus, StoreStatus

_HEADER = ("state", "bundle", "release", "generation", "stored", "free")
_DATE_COLUMNS = 10  # of "2026-11-25T08:47:27Z"


@click.command(no_args_is_help=True)
@roots_argument
@click.option("--scrub", is_flag=True, help="Read all of it, and say which chunks have changed on the disk.")
@boxes_option
@parallel_option("ask")
@json_option
def status(
    roots: tuple[str, ...], *, scrub: bool, boxes_file: "Path | None", parallel: int, as_json: bool
) -> None:
    """Show what is on a device, and how it is.

    ROOT is the folder of a store, or ssh://[USER@]HOST[:PORT]/PATH; several are shown with a line each. What
    a power cut left is put right first. Exit code 4 when something is damaged: flash the same bundle again,
    and only what has changed is sent. What no key vouches for, where the store asks for one, is named and is
    not damaged. Exit code 6: a box could not be reached or, of several, one could not be asked.
    """
    from edgephi.cli.fleet.ask import ask_stores, say_answers
    from edgephi.cli.fleet.stores import read_stores
    from edgephi.cli.show.mending import mending
    from edgephi.records import write_record
    from edgephi.store.disk.lock import LOCK_WAIT_SECONDS
    from edgephi.store.status import status as store_status

    def here(root: "Path", step: "Step") -> "StoreStatus":
        return store_status(root, scrub_too=scrub, lock_wait_seconds=LOCK_WAIT_SECONDS, step=step)

    async def there(box: "Box", watcher: "Watcher") -> "StoreStatus":
        from edgephi.flash.ssh import upkeep

        return await upkeep.status(box, scrub_too=scrub, watcher=watcher)

    answers = ask_stores(read_stores(roots, boxes_file), here, there, parallel=parallel)
    code = 0
    if len(answers) > 1:
        code = say_answers(answers, _HEADER, _row, write_record, as_json=as_json, right=(2, 4, 5))
    for each in answers:
        found, root = each.answer, each.store.destination
        if found is None:
            continue
        if len(answers) == 1:
            if as_json:
                say_document(write_record(found))
            else:
                say(_summary(root, found))
        damaged = _damaged(found)
        if damaged:
            error = BadBundleError(
                f"{root}: expected every file as it was installed, found {damaged[0].digest[:12]} damaged",
                hint=mending(root, damaged[0], keys_problem=found.keys_problem),
            )
            if len(answers) == 1:
                raise error
            code = code or error.exit_code
            say(error_lines(error.message, error.hint), err=True)
    raise click.exceptions.Exit(code)


def _damaged(found: "StoreStatus") -> "list[GenerationStatus]":
    scrubbed = {each.digest for each in found.damages or ()}
    return [each for each in found.generations if each.problem or each.digest in scrubbed]


def _row(found: "StoreStatus") -> tuple[str, ...]:
    """The active bundle of one store of several, and the state of the store as a whole."""
    from edgephi.cli.show.sizes import human_bytes

    current = next((each for each in found.generations if each.role == "current"), None)
    state = _state(current) if current else "no bundle"
    if found.keys_problem:
        state = "closed"
    return (
        "damaged" if _damaged(found) else state,
        current.name if current else "-",
        str(current.sequence) if current else "-",
        current.digest[:12] if current else "-",
        human_bytes(found.stored_bytes),
        human_bytes(found.free_bytes),
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
