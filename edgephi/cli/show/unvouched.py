"""What to do about generations that no key vouches for: a line each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

from edgephi.commands import edgephi_command, place
from edgephi.guards.visible import visible

if TYPE_CHECKING:
    from edgephi.store.status import GenerationStatus
    from edgephi.store.trust.vouching import Unvouched


def unvouched_lines(root: str, generations: Sequence[Union["Unvouched", "GenerationStatus"]]) -> list[str]:
    """A line for each of these generations of the store at `root`, the active one first."""
    order = ("current", "previous", "other")
    return [_line(root, each) for each in sorted(generations, key=lambda each: order.index(each.role))]


def _line(root: str, generation: Union["Unvouched", "GenerationStatus"]) -> str:
    what = generation.digest[:12]
    if generation.name:
        what += f", {visible(generation.name)} release {generation.sequence}"
    command = edgephi_command("gc", place(root))
    advice = f"`{command}` removes it"
    if generation.role == "current":
        command = edgephi_command("flash", "BUNDLE", place(root))
        advice = f"it is active until a signed one is flashed: `{command}`"
    elif generation.role == "previous":
        advice = "nothing goes back to it"
    return f"no key vouches for {what}: {advice}"
