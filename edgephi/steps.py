"""How the steps of long work are told to whoever shows them. Standard library only."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

Step = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Opens a step: its title, its size in units of work or 0 when that says nothing; yields what counts them."""


@contextlib.contextmanager
def silent(_title: str, _size: int) -> Iterator[Callable[[int], None]]:
    """A step that nobody looks at."""
    yield lambda _: None
