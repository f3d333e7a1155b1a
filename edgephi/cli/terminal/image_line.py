"""Images that go into a prompt, as people are told of them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgephi.runtime.images.seen_image import SeenImage


def image_line(image: "SeenImage") -> str:
    """One image in a line: its name, its size, what it takes of the context, and what is left out of it."""
    line = f"{image.name}: {image.width} x {image.height}, {image.tokens} tokens"
    remark = image.remark.removeprefix(f"{image.name}: ")
    return f"{line}; {remark}" if remark else line
