"""What the KV caches of all engines do alike: which tokens are held, and which of them are to be computed.

A token that is held need not have keys and values. They are dropped when LongRoPE's other factors hold for
the new length of the sequence, or when an engine cannot go back to an earlier token; the next `append`
computes them again, before the new tokens and in the same pieces.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Self

from edgephi.errors import DoesNotFitError, EdgephiError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class SequenceCache(ABC):
    """A KvCache without its computing, which an engine's own class adds.

    `piece_tokens` are computed at once. `long_above`: sequences of more tokens are rotated by LongRoPE's long
    factors, for all their positions; None for a model without them. An engine that is not `told_factors`
    finds out by the last position of each piece, so the first piece of a long sequence must reach that far.
    """

    def __init__(
        self, capacity: int, *, piece_tokens: int, long_above: int | None, told_factors: bool = True
    ) -> None:
        self.capacity = capacity
        self._piece_tokens = piece_tokens
        self._long_above = long_above
        self._told_factors = told_factors
        self._tokens: list[int] = []
        self._computed = 0  # of the tokens: the first so many have keys and values
        self._long = False  # whether those are rotated by the long factors
        self._has_logits = False
        self._closed = False

    @property
    def tokens(self) -> Sequence[int]:
        """See KvCache."""
        return self._tokens

    def rewind(self, count: int) -> None:
        """See KvCache."""
        self._check_open()
        if not 0 <= count <= len(self._tokens):
            raise EdgephiError(
                f"expected to keep 0 to {len(self._tokens)} tokens, found {count}", hint="please report this"
            )
        if count == len(self._tokens):
            return
        del self._tokens[count:]
        self._has_logits = False
        if count < self._computed:
            self._computed = self._keep(count)

    def append(self, tokens: Sequence[int]) -> Iterator[int]:
        """See KvCache."""
        self._check_open()
        total = len(self._tokens) + len(tokens)
        if total > self.capacity:
            raise too_many(total, self.capacity)
        return self._append(list(tokens), total)

    def logits(self) -> NDArray[np.float32]:
        """See KvCache."""
        self._check_logits()
        return self._last_logits()

    def next_greedy(self) -> int:
        """See KvCache."""
        return int(self.logits().argmax())

    def fork(self) -> Self | None:
        """See KvCache."""
        self._check_open()
        copy = self._copy()
        if copy is not None:
            copy._tokens = list(self._tokens)
            copy._computed, copy._long = self._computed, self._long
        return copy

    def close(self) -> None:
        """See KvCache."""
        if not self._closed:
            self._closed = True
            self._has_logits = False
            self._free()

    def _append(self, new: list[int], total: int) -> Iterator[int]:
        """Compute what is missing of the `total` tokens that are those held and then `new`."""
        if not new:
            return
        self._check_open()
        held = len(self._tokens)
        self._has_logits = False
        long = self._long_above is not None and total > self._long_above
        if long != self._long:
            self._computed, self._long = self._keep(0), long
        while self._computed < total:
            past = self._computed
            size = self._piece_size(past)
            if long and self._long_above is not None and not self._told_factors:
                size = max(size, self._long_above + 1 - past)
            end = min(past + size, total)
            added = new[max(0, past - held) : max(0, end - held)]
            try:
                self._compute([*self._tokens[past:end], *added], past)
                self._tokens += added
                self._computed = end
            except BaseException:  # Ctrl-C, too: whatever the engine has computed of this piece is dropped
                self._computed = self._keep(past)
                raise
            self._has_logits = end == total
            yield max(0, end - held)

    def _check_open(self) -> None:
        if self._closed:
            raise EdgephiError("expected an open KV cache, found a closed one", hint="please report this")

    def _check_logits(self) -> None:
        if not self._has_logits:
            raise EdgephiError(
                "expected logits of the last token, found that it is not computed yet",
                hint="append a token first, to the end",
            )

    def _piece_size(self, past: int) -> int:  # noqa: ARG002 - for engines where it depends on that
        """How many tokens are computed at once after the first `past`."""
        return self._piece_tokens

    @abstractmethod
    def _compute(self, tokens: list[int], past: int) -> None:
        """Compute `tokens` after the first `past` of the cache, with the factors that `_long` says."""

    @abstractmethod
    def _keep(self, count: int) -> int:
        """Drop all keys and values but those of the first `count` tokens, of which there may be fewer.

        Returns for how many tokens there still are some: less than `count` where they are gone.
        """

    @abstractmethod
    def _last_logits(self) -> NDArray[np.float32]:
        """Logits after the last token that was computed, [vocabulary]."""

    def _copy(self) -> Self | None:
        """A cache of its own with the same keys and values; None where the engine cannot copy them."""
        return None

    @abstractmethod
    def _free(self) -> None:
        """Give the memory back."""


def too_many(found: int, capacity: int) -> DoesNotFitError:
    """What is raised where there is room for `capacity` tokens only."""
    return DoesNotFitError(
        f"expected at most {capacity} tokens, found {found}", hint="open the bundle with a larger context"
    )
