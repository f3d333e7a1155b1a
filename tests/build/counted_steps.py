"""Steps of long work that remember how large they were said to be, and how much of them was counted."""

import contextlib
from collections.abc import Callable, Iterator


class CountedSteps:
    """`step` is what long work takes; `sizes` and `counted` are by title, in the order of the steps."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.counted: dict[str, int] = {}

    @contextlib.contextmanager
    def step(self, title: str, size: int) -> Iterator[Callable[[int], None]]:
        """Begin a step."""
        self.sizes[title], self.counted[title] = size, 0

        def count(units: int) -> None:
            self.counted[title] += units

        yield count
