"""The part of `edgephi flash` that writes to boxes over ssh: one with bars, several with a line each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgephi.cli.fleet.stores import Store
from edgephi.cli.fleet.summary import said_error, said_store, summary
from edgephi.cli.show.boxes import BoxLine, BoxSteps, drawn
from edgephi.cli.show.outcome import answer_of, outcome_summary
from edgephi.cli.show.say import say, say_document
from edgephi.cli.show.sizes import human_bytes
from edgephi.flash.destination import Box

if TYPE_CHECKING:
    from edgephi.flash.source import BundleSource
    from edgephi.flash.ssh.many import BoxResult
    from edgephi.flash.ssh.transfer import TransferSettings


def flash_boxes(
    source: "BundleSource", stores: Sequence[Store], settings: "TransferSettings", *, as_json: bool
) -> int:
    """Flash boxes, show it and print the results. Returns the exit code; a single box's error is raised."""
    from edgephi.flash.ssh.many import exit_code, flash_all

    boxes = {store.place: store for store in stores if isinstance(store.place, Box)}
    if len(boxes) == 1:
        with BoxSteps() as steps:
            (result,) = flash_all(source, list(boxes), settings, lambda _box: steps)
            if result.error is not None:
                raise result.error
        _print_one(stores[0], result, as_json=as_json)
        return 0
    lines = {box: BoxLine(store.name) for box, store in boxes.items()}
    with drawn(list(lines.values())):
        results = flash_all(source, list(boxes), settings, lambda box: lines[box])
    if as_json:
        say_document({"boxes": [_document(boxes[each.box], each) for each in results]})
    else:
        header = ("result", "generation", "sent", "saved", "cuts", "time", "tokens/s")
        rows = [(boxes[each.box], _row(each)) for each in results]
        errors = {boxes[each.box]: each.error for each in results if each.error is not None}
        say(summary(rows, errors, header, right=(2, 3, 4, 5, 6)))
    return exit_code([each.error for each in results])


def _row(result: "BoxResult") -> tuple[str, ...]:
    """What is said of one box of several. Also of one that failed: what it has taken is not lost."""
    done, took = result.outcome, result.transfer
    probe = done and done.probe
    return (
        "failed" if done is None else "active" if done.changed else "was active",
        "-" if done is None else done.digest[:12],
        human_bytes(took.sent_bytes),
        human_bytes(took.saved_bytes),
        str(took.cuts),
        f"{took.seconds:.1f} s",
        f"{probe.tokens_per_second:,.1f}" if probe and not probe.emulated else "-",
    )


def _print_one(store: Store, result: "BoxResult", *, as_json: bool) -> None:
    took, outcome = result.transfer, result.outcome
    assert outcome is not None  # noqa: S101 - else there is an error
    if as_json:
        say_document(_document(store, result))
        return
    lines = outcome_summary(store.destination, outcome, took.seconds, took.sent_bytes, took.saved_bytes)
    if took.cuts:
        lines += f"\nconnected again {took.cuts} times, sent {human_bytes(took.resent_bytes)} twice"
    say(lines)


def _document(store: Store, result: "BoxResult") -> dict[str, object]:
    """What `--json` prints of one box: as for a folder, and what crossed the network in all connections."""
    from edgephi.records import write_record

    outcome, took = result.outcome, write_record(result.transfer)
    return {
        **said_store(store),
        **(write_record(outcome) | {"answer": answer_of(outcome.probe)} if outcome is not None else {}),
        **took,
        "seconds": round(took["seconds"], 3),
        "error": said_error(result.error),
    }
