"""Functions that a signal shall not leave half done: the command line acts on it when they have returned."""

from collections.abc import Callable
from types import CodeType, FrameType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_MARKED: set[CodeType] = set()


def uninterrupted(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function, which must be short: what it takes hold of would be lost between two lines of it."""
    _MARKED.add(function.__code__)
    return function


def is_uninterrupted(frame: FrameType) -> bool:
    """Whether a frame is that of a marked function."""
    return frame.f_code in _MARKED
