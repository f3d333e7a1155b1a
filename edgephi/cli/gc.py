"""`edgephi gc`: remove from a device what nothing needs."""

from typing import TYPE_CHECKING, Any

import click

from edgephi.cli.options import boxes_option, json_option, parallel_option, roots_argument
from edgephi.cli.show.say import say, say_document

if TYPE_CHECKING:
    from pathlib import Path

    from edgephi.flash.destination import Box
    from edgephi.flash.ssh.transfer import Watcher
    from edgephi.steps import Step
    from edgephi.store.garbage import Collected

_HEADER = ("result", "bundles", "files", "freed", "kept")


@click.command(no_args_is_help=True)
@roots_argument
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--unfinished", is_flag=True, help="Remove a transfer that was cut too; it could have gone on.")
@boxes_option
@parallel_option("tidy")
@json_option
def gc(
    roots: tuple[str, ...],
    *,
    dry_run: bool,
    unfinished: bool,
    boxes_file: "Path | None",
    parallel: int,
    as_json: bool,
) -> None:
    """Remove from a device what nothing needs.

    ROOT is the folder of a store, or ssh://[USER@]HOST[:PORT]/PATH; there may be several. What stays is the
    current bundle, the previous one, and those that a process has open or a systemd unit names. Exit code 6:
    a box could not be reached or, of several, one failed.
    """
    from edgephi.cli.fleet.ask import ask_stores, say_answers
    from edgephi.cli.fleet.stores import read_stores
    from edgephi.records import write_record
    from edgephi.store.disk.lock import LOCK_WAIT_SECONDS
    from edgephi.store.garbage import collect_garbage

    def here(root: "Path", step: "Step") -> "Collected":
        return collect_garbage(
            root, dry_run=dry_run, unfinished=unfinished, lock_wait_seconds=LOCK_WAIT_SECONDS, step=step
        )

    async def there(box: "Box", watcher: "Watcher") -> "Collected":
        from edgephi.flash.ssh import upkeep

        return await upkeep.collect_garbage(box, dry_run=dry_run, unfinished=unfinished, watcher=watcher)

    def document(done: "Collected") -> dict[str, Any]:
        return {**write_record(done), "changed": _has_any(done) and not dry_run}

    def row(done: "Collected") -> tuple[str, ...]:
        return _row(done, "would remove" if dry_run else "removed")

    stores = read_stores(roots, boxes_file)
    answers = ask_stores(stores, here, there, parallel=parallel)
    if len(answers) > 1:
        code = say_answers(answers, _HEADER, row, document, as_json=as_json, right=(1, 2, 3, 4))
        raise click.exceptions.Exit(code)
    done = answers[0].answer
    assert done is not None  # noqa: S101 - else its error was raised
    if as_json:
        say_document(document(done))
    else:
        say(_summary(stores[0].destination, done, dry_run=dry_run))


def _has_any(done: "Collected") -> bool:
    return bool(done.generations or done.objects or done.freed_bytes)


def _row(done: "Collected", did: str) -> tuple[str, ...]:
    from edgephi.cli.show.sizes import human_bytes

    return (
        did if _has_any(done) else "nothing to remove",
        str(len(done.generations)),
        str(done.objects),
        human_bytes(done.freed_bytes),
        str(len(done.still_open) + len(done.in_units)),
    )


def _summary(root: str, done: "Collected", *, dry_run: bool) -> str:
    from edgephi.cli.show.sizes import human_bytes

    what = [", ".join(digest[:12] for digest in done.generations)] if done.generations else []
    what += [f"{done.objects} file{'' if done.objects == 1 else 's'}"] if done.objects else []
    if not what and done.freed_bytes:
        what = ["an unfinished transfer"]
    would = "would remove" if dry_run else "removed"
    lines = [f"{root}: nothing to remove"]
    if what:
        lines = [f"{root}: {would} {' and '.join(what)}, {human_bytes(done.freed_bytes)}"]
    lines += [f"kept {digest[:12]}: a process has it open" for digest in done.still_open]
    lines += [f"kept {digest[:12]}: a systemd unit names it" for digest in done.in_units]
    return "\n".join(lines)
