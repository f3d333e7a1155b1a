"""The part of `edgephi flash` that writes to boxes over ssh: one with bars, several with a line each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgephi.cli.show.boxes import BoxLine, BoxSteps, boxes_summary, drawn
from edgephi.cli.show.outcome import outcome_summary
from edgephi.cli.show.say import say, say_document
from edgephi.cli.show.sizes import human_bytes

if TYPE_CHECKING:
    from edgephi.flash.destination import Box
    from edgephi.flash.source import BundleSource
    from edgephi.flash.ssh.many import BoxResult
    from edgephi.flash.ssh.transfer import TransferSettings


def flash_boxes(
    source: "BundleSource", destinations: Sequence[str], settings: "TransferSettings", *, as_json: bool
) -> int:
    """Flash boxes, show it and print the results. Returns the exit code; a single box's error is raised."""
    from edgephi.flash.destination import read_box
    from edgephi.flash.ssh.many import exit_code, flash_all

    boxes = [read_box(destination) for destination in destinations]
    if len(boxes) == 1:
        with BoxSteps() as steps:
            (result,) = flash_all(source, boxes, settings, lambda _box: steps)
            if result.error is not None:
                raise result.error
        _print_one(destinations[0], result, as_json=as_json)
        return 0
    names = dict(zip(boxes, _names(boxes, destinations), strict=True))
    lines = {box: BoxLine(name) for box, name in names.items()}
    with drawn(list(lines.values())):
        results = flash_all(source, boxes, settings, lambda box: lines[box])
    if as_json:
        documents = [_document(*each) for each in zip(destinations, results, strict=True)]
        say_document({"boxes": documents})
    else:
        say(boxes_summary(names, results))
    return exit_code(results)


def _print_one(destination: str, result: "BoxResult", *, as_json: bool) -> None:
    took, outcome = result.transfer, result.outcome
    assert outcome is not None  # noqa: S101 - else there is an error
    if as_json:
        say_document(_document(destination, result))
        return
    lines = outcome_summary(destination, outcome, took.seconds, took.sent_bytes, took.saved_bytes)
    if took.cuts:
        lines += f"\nconnected again {took.cuts} times, sent {human_bytes(took.resent_bytes)} twice"
    say(lines)


def _document(destination: str, result: "BoxResult") -> dict[str, object]:
    """What `--json` prints of one box: as for a folder, and what crossed the network in all connections."""
    from edgephi.records import write_record

    error, outcome, took = result.error, result.outcome, write_record(result.transfer)
    return {
        "destination": destination,
        **(write_record(outcome) if outcome is not None else {}),
        **took,
        "seconds": round(took["seconds"], 3),
        "error": error and {"message": error.message, "hint": error.hint, "exit_code": error.exit_code},
    }


def _names(boxes: "Sequence[Box]", destinations: Sequence[str]) -> Sequence[str]:
    """A short name for each box; the whole destination where one has several stores."""
    hosts = [str(box) for box in boxes]
    return hosts if len(set(hosts)) == len(hosts) else destinations
