"""The tokens of images that an engine knows: a number below 0 stands for each, as an id does for a word.

So whatever is done with the ids of a prompt (to find a prefix again, to rewind, to compute in pieces) is done
with images too, and the same image has the same ids wherever it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgephi.errors import EdgephiError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass
class _Placed:
    """One image: `tokens` ids from `first` downwards, and what they are, [tokens, hidden], once computed."""

    first: int
    tokens: int
    rows: NDArray[np.float32] | None = None

    @property
    def ids(self) -> range:
        return range(self.first, self.first - self.tokens, -1)


class ImageRows:
    """The images of one engine, by a key that tells them apart: a hash of all that they are made of.

    Ids are given once: what was forgotten comes back under others. At most `capacity` tokens are held while
    nobody needs more.
    """

    def __init__(self, hidden_size: int, capacity: int) -> None:
        self.hidden_size = hidden_size
        self._capacity = capacity
        self._placed: dict[str, _Placed] = {}  # the least recently placed first
        self._next = -1

    def place(self, key: str, tokens: int) -> range:
        """The ids of an image of so many tokens."""
        placed = self._placed.pop(key, None)
        if placed is None:
            placed = _Placed(self._next, tokens)
            self._next -= tokens
        self._placed[key] = placed
        return placed.ids

    def is_filled(self, key: str) -> bool:
        """Whether an image that has its place has been computed."""
        return self._placed[key].rows is not None

    def fill(self, key: str, rows: NDArray[np.float32]) -> None:
        """Take what an image is, float32 [tokens, hidden]."""
        placed = self._placed[key]
        if rows.shape != (placed.tokens, self.hidden_size):
            raise EdgephiError(
                f"expected an image of {(placed.tokens, self.hidden_size)} numbers, found {rows.shape}",
                hint="please report this",
            )
        placed.rows = rows

    def take(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """What the tokens of images are, float32 [ids, hidden]; all of them below 0."""
        import numpy as np

        wanted = np.asarray(ids, np.int64)
        found = np.empty((len(wanted), self.hidden_size), np.float32)
        left = np.ones(len(wanted), np.bool_)
        for placed in self._placed.values():
            own = (wanted <= placed.first) & (wanted > placed.first - placed.tokens)
            if placed.rows is not None and own.any():
                found[own] = placed.rows[placed.first - wanted[own]]
                left &= ~own
        if left.any():
            raise EdgephiError(
                f"expected tokens of images that are there, found {wanted[left][0]}",
                hint="please report this",
            )
        return found

    def forget(self, is_used: Callable[[range], bool]) -> None:
        """Forget images, the least recently placed first, until no more than the capacity is held.

        Those stay of whose ids some `is_used`.
        """
        held = sum(placed.tokens for placed in self._placed.values())
        for key, placed in list(self._placed.items()):
            if held <= self._capacity:
                return
            if not is_used(placed.ids):
                held -= placed.tokens
                del self._placed[key]


def has_images(ids: Iterable[int]) -> bool:
    """Whether any of these tokens is one of an image."""
    return any(each < 0 for each in ids)
