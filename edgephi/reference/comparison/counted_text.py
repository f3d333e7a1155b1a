"""Which tokens of passages are counted, and what stands around each of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FIRST_COUNTED = 16
"""The first position of a passage that is counted.

At the beginning of a context a model knows nothing yet, and its attention rests on the first tokens: the KL
divergences of these are larger than those after them, and say less of how a model is used.
"""


@dataclass(frozen=True)
class CountedText:
    """The counted tokens of passages that lie one after the other.

    Each is an array [counted tokens]. rows: their places among all tokens · passage: the number of the
    passage · following: the id of the token after it, -1 at the end of a passage
    """

    rows: NDArray[np.int64]
    passage: NDArray[np.int64]
    following: NDArray[np.int64]


def first_counted(tokens: int) -> int:
    """The first position that is counted in a passage of so many tokens.

    Of a passage that is hardly longer than what is left out, the second half is counted.
    """
    return max(0, min(FIRST_COUNTED, tokens // 2 - 1))


def counted_text(passages: Sequence[Sequence[int]], *, first: Sequence[int] | None = None) -> CountedText:
    """The counted tokens of passages of token ids; `first` are the first positions that are counted in each.

    Raises ValueError when none of them is followed by another token.
    """
    rows, numbers, following = [], [], []
    start = 0
    for number, ids in enumerate(passages):
        begin = first_counted(len(ids)) if first is None else first[number]
        positions = np.arange(begin, len(ids))
        rows.append(start + positions)
        numbers.append(np.full(len(positions), number))
        following.append(np.array([*ids[1:], -1], dtype=np.int64)[positions])
        start += len(ids)
    text = CountedText(*map(np.concatenate, (rows, numbers, following))) if rows else None
    if text is None or not (text.following >= 0).any():
        raise ValueError(f"expected a passage of at least two tokens, found none in {len(passages)}")
    return text
