"""Where images stand in a rendered prompt: marks that no text can hold, each with the ids of its image."""

from __future__ import annotations

import re

# Unicode keeps these two out of all texts, for uses like this one.
_OPEN, _CLOSE = "\ufdd2", "\ufdd3"
_MARK = re.compile(f"{_OPEN}([0-9]+),([0-9]+){_CLOSE}", re.ASCII)


def image_mark(ids: range) -> str:
    """What stands for an image whose ids go down from one below 0."""
    return f"{_OPEN}{-ids.start},{len(ids)}{_CLOSE}"


def holds_mark(text: str) -> bool:
    """Whether a text has a letter that is kept for marks."""
    return _OPEN in text or _CLOSE in text


def split_at_images(rendered: str) -> tuple[list[str], list[range]]:
    """The texts around the images of a prompt, one more than images, and the ids of these."""
    first, *others = _MARK.split(rendered)
    ids = [
        range(-int(start), -int(start) - int(count), -1)
        for start, count in zip(others[::3], others[1::3], strict=True)
    ]
    return [first, *others[2::3]], ids
