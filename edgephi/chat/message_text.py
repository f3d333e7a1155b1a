"""The content of a message in which not all words are a stranger's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Own:
    """Words of edgephi in a message: a special token that is written in them is meant as one."""

    text: str


MessageText = str | tuple[str | Own, ...]
"""A text, or its parts. What is not Own comes from outside, and can end no turn of a conversation."""
