"""What `edgephi flash` and `rollback` say of the bundle that has become active."""

import textwrap
from typing import TYPE_CHECKING

from edgephi.cli.show.sizes import human_bytes
from edgephi.commands import edgephi_command, place
from edgephi.guards.visible import visible

if TYPE_CHECKING:
    from edgephi.store.install import Outcome
    from edgephi.store.proving.probe import ProbeResult

_WIDTH = 80


def outcome_summary(destination: str, outcome: "Outcome", seconds: float, sent: int, saved: int) -> str:
    """What was done, in a few lines. `sent` and `saved` are bytes."""
    total = sent + saved
    share = sent / total if total else 0.0
    is_active = "is active"
    if outcome.was_current:
        is_active = "was active already" + (", and is mended or proven anew" if outcome.changed else "")
    lines = [
        f"{destination}: {visible(outcome.name)}, release {outcome.sequence}, {is_active} "
        f"({outcome.digest[:12]})",
        f"sent {human_bytes(sent)} ({share:.1%}), saved {human_bytes(saved)}, in {seconds:.1f} s",
    ]
    if outcome.probe is not None or not outcome.was_current:
        lines += answered_lines(outcome.probe, outcome.signer)
    elif outcome.signer is not None:
        lines.append(f"signed by {visible(outcome.signer)}")
    if outcome.previous is not None and outcome.previous_unvouched:
        lines.append(f"before: {outcome.previous[:12]}; no key vouches for it: nothing goes back to it")
    elif outcome.previous is not None:
        back = edgephi_command("rollback", place(destination))
        lines.append(f"before: {outcome.previous[:12]}; `{back}` goes back to it")
    if outcome.still_open:
        lines.append("a process goes on with the one before: restart what runs it")
    return "\n".join(lines)


def answered_lines(probe: "ProbeResult | None", signer: str | None) -> list[str]:
    """What a bundle that has become active answered, and which key vouches for it: a line each."""
    if probe is None:
        lines = ["not proven: the machine that it is for has to answer with it"]
    else:
        lines = [f"probe: it answered {probe.speed}, with {human_bytes(probe.memory_bytes)} of memory"]
        lines += first_words(probe)
    return lines if signer is None else [*lines, f"signed by {visible(signer)}"]


def answer_of(probe: "ProbeResult | None") -> str | None:
    """The first words of what a bundle answered, as `--json` tells them; None when it was not asked."""
    return None if probe is None else " ".join(map(str.strip, first_words(probe)))


def first_words(probe: "ProbeResult") -> list[str]:
    """What a bundle answered, in one line, and what about its picture; none where that is but white space."""
    said = [visible(probe.text)]
    if probe.about_picture.strip():
        said.append(f"about its picture: {visible(probe.about_picture)}")
    return [
        line
        for text in said
        for line in textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="  ", max_lines=1)
    ]
