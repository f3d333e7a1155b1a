"""`edgephi rollback`: back to the bundle that a device ran before."""

from typing import TYPE_CHECKING, Any

import click

from edgephi.cli.options import boxes_option, json_option, parallel_option, roots_argument
from edgephi.cli.show.say import say, say_document
from edgephi.errors import UsageError
from edgephi.guards.visible import visible

if TYPE_CHECKING:
    from pathlib import Path

    from edgephi.flash.ssh.transfer import Watcher
    from edgephi.steps import Step
    from edgephi.store.rollback import RolledBack

_HEADER = ("result", "bundle", "release", "generation", "was", "tokens/s")


@click.command(no_args_is_help=True)
@roots_argument
@click.option(
    "--elsewhere",
    is_flag=True,
    help="ROOT is on the disk of another machine: leave out what only that one can tell, the probe too.",
)
@boxes_option
@parallel_option("take back")
@json_option
def rollback(
    roots: tuple[str, ...], *, elsewhere: bool, boxes_file: "Path | None", parallel: int, as_json: bool
) -> None:
    """Go back to the bundle that a device ran before.

    ROOT is the folder of a store, or ssh://[USER@]HOST[:PORT]/PATH; there may be several. Needs no network.
    Doing it again goes forward again. A service goes on with the bundle that it has opened until it is
    started again.

    The bundle is checked as one that is flashed: signed by a key that is trusted now, not below the security
    floor, every byte as it was installed; and it must answer as it did when it was built. If not, nothing
    changes. Exit code 4: it is damaged, or no key vouches for it. Exit code 5: it did not answer as it must.
    Exit code 6: a box could not be reached or, of several, one failed.
    """
    from edgephi.cli.fleet.ask import ask_stores, say_answers
    from edgephi.cli.fleet.stores import read_stores
    from edgephi.flash.destination import Box
    from edgephi.store.disk.lock import LOCK_WAIT_SECONDS
    from edgephi.store.rollback import roll_back

    def here(root: "Path", step: "Step") -> "RolledBack":
        return roll_back(root, prove=not elsewhere, lock_wait_seconds=LOCK_WAIT_SECONDS, step=step)

    async def there(box: Box, watcher: "Watcher") -> "RolledBack":
        from edgephi.flash.ssh import upkeep

        return await upkeep.roll_back(box, watcher)

    stores = read_stores(roots, boxes_file)
    if elsewhere and any(isinstance(store.place, Box) for store in stores):
        raise UsageError("--elsewhere: expected with a folder, found ssh://…", hint="leave it out")
    answers = ask_stores(stores, here, there, parallel=parallel)
    if len(answers) > 1:
        code = say_answers(answers, _HEADER, _row, _document, as_json=as_json, right=(2, 5))
        raise click.exceptions.Exit(code)
    done = answers[0].answer
    assert done is not None  # noqa: S101 - else its error was raised
    if as_json:
        say_document(_document(done))
    else:
        say(_summary(stores[0].destination, done))


def _summary(root: str, done: "RolledBack") -> str:
    from edgephi.cli.show.outcome import answered_lines

    left = f"; {done.left[:12]} was" if done.left else ""
    lines = [f"{root}: {visible(done.name)}, release {done.sequence}, is active ({done.digest[:12]}){left}"]
    lines += answered_lines(done.probe, done.signer)
    if done.still_open:
        lines.append("a process goes on with the one before: restart what runs it")
    return "\n".join(lines)


def _document(done: "RolledBack") -> dict[str, Any]:
    from edgephi.cli.show.outcome import answer_of
    from edgephi.records import write_record

    return {**write_record(done), "changed": True, "answer": answer_of(done.probe)}


def _row(done: "RolledBack") -> tuple[str, ...]:
    return (
        "active",
        done.name,
        str(done.sequence),
        done.digest[:12],
        done.left[:12] if done.left else "-",
        f"{done.probe.tokens_per_second:,.1f}" if done.probe and not done.probe.emulated else "-",
    )
