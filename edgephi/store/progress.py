"""How the steps of long work are told to whoever shows them."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

Step = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Begins a step by its title and its size in bytes, 0 when that says nothing; yields what counts bytes."""


@contextlib.contextmanager
def silent(_title: str, _size: int) -> Iterator[Callable[[int], None]]:
    """A step that nobody looks at."""
    yield lambda _: None
