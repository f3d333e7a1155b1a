"""The part of `edgephi flash --check` that says what would be done."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgephi.cli.fleet.ask import ask_stores, say_answers
from edgephi.cli.fleet.stores import Store
from edgephi.cli.fleet.summary import said_store
from edgephi.cli.show.say import say, say_document
from edgephi.cli.show.sizes import human_bytes
from edgephi.guards.visible import visible

if TYPE_CHECKING:
    from pathlib import Path

    from edgephi.flash.destination import Box
    from edgephi.flash.source import BundleSource
    from edgephi.flash.ssh.transfer import Watcher
    from edgephi.steps import Step
    from edgephi.store.check import Checked
    from edgephi.store.preflight import InstallOptions


def check_flash(
    source: "BundleSource",
    stores: Sequence[Store],
    options: "InstallOptions",
    *,
    parallel: int,
    as_json: bool,
) -> int:
    """Check a bundle against stores and print what was found. Returns the exit code."""
    from edgephi.flash.folder import check_apart, check_source

    def here(root: "Path", step: "Step") -> "Checked":
        check_apart(source, root)
        return check_source(source, root, options, step=step)

    async def there(box: "Box", watcher: "Watcher") -> "Checked":
        from edgephi.flash.ssh.check import check_box
        from edgephi.flash.ssh.transfer import TransferSettings

        settings = TransferSettings(options.allow_downgrade, unsigned_wheels=options.unsigned_wheels)
        return await check_box(source, box, settings, watcher)

    answers = ask_stores(stores, here, there, parallel=parallel)
    if len(answers) > 1:
        header = ("result", "active now", "to send", "there")
        return say_answers(answers, header, _row, _document, as_json=as_json, right=(2, 3))
    checked = answers[0].answer
    assert checked is not None  # noqa: S101 - else its error was raised
    if as_json:
        say_document({**said_store(stores[0]), **_document(checked)})
    else:
        say(_summary(stores[0].destination, checked))
    return 0


def _document(checked: "Checked") -> dict[str, Any]:
    from edgephi.records import write_record

    return {"check": True, **write_record(checked)}


def _row(checked: "Checked") -> tuple[str, ...]:
    return (
        "would change" if checked.changed else "as it is",
        checked.active[:12] if checked.active else "-",
        human_bytes(checked.sent_bytes),
        human_bytes(checked.saved_bytes),
    )


def _summary(destination: str, checked: "Checked") -> str:
    which = f"{visible(checked.name)}, release {checked.sequence} ({checked.digest[:12]})"
    if not checked.changed:
        return f"{destination}: {which} is active and whole: nothing to do"
    total = checked.sent_bytes + checked.saved_bytes
    share = checked.sent_bytes / total if total else 0.0
    would = "would be mended or proven anew" if checked.active == checked.digest else "would be flashed"
    lines = [
        f"{destination}: {which} {would}; nothing was written",
        f"to send {human_bytes(checked.sent_bytes)} ({share:.1%}), there {human_bytes(checked.saved_bytes)}",
    ]
    if checked.signer is not None:
        lines.append(f"signed by {visible(checked.signer)}")
    if checked.active not in (None, checked.digest):
        lines.append(f"active now: {checked.active[:12]}")
    return "\n".join(lines)
