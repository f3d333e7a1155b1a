"""What a plan comes to at each quality, and how its sizes are said."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgephi.cli.show.sizes import human_bytes
from edgephi.cli.show.table import table

if TYPE_CHECKING:
    from edgephi.build.plan import Plan
    from edgephi.declared.quality import Quality

_WIDTH = 80


def qualities_table(qualities: Mapping["Quality", "Plan | str"]) -> str:
    """A row for each quality: bits per weight, size and memory, or the reason why it cannot be had."""
    rows = [(name, *_sizes(plan)) for name, plan in qualities.items() if not isinstance(plan, str)]
    header = ("quality", "bits per weight", "artifact", "memory")
    lines = [table(rows, header, right=range(1, 4))]
    for name, reason in qualities.items():
        if isinstance(reason, str):
            lines += textwrap.wrap(
                f"{name}: {reason}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False
            )
    return "\n".join(lines)


def qualities_document(qualities: Mapping["Quality", "Plan | str"]) -> dict[str, Any]:
    """What `qualities_table` says, for JSON."""
    return {
        name: {"reason": plan}
        if isinstance(plan, str)
        else {
            "bits_per_weight": plan.bits_per_weight,
            "artifact_bytes": plan.artifact_bytes,
            "memory_bytes": plan.memory.total,
            "at_most": plan.undecided,
        }
        for name, plan in qualities.items()
    }


def at_most(plan: "Plan") -> str:
    """What stands before a size that the build does not exceed, because it has yet to choose."""
    return "at most " if plan.undecided else ""


def _sizes(plan: "Plan") -> tuple[str, str, str]:
    sizes = (f"{plan.bits_per_weight:.2f}", human_bytes(plan.artifact_bytes), human_bytes(plan.memory.total))
    bits, artifact, memory = (at_most(plan) + size for size in sizes)
    return bits, artifact, memory
