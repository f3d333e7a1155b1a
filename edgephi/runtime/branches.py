"""Several continuations of one prompt, each computed a token further at a time: what beam search works on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgephi.errors import EdgephiError
from edgephi.runtime.adapter import KvCache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Continuation = tuple[int, ...]
"""The tokens behind the prompt."""


class BranchLogits(ABC):
    """Gives the logits of continuations."""

    @abstractmethod
    def grow(self, continuations: Sequence[Continuation]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Compute continuations that are each a token longer than one of those of the last call.

        Yields the place of each among them, in any order, and its logits [vocabulary], which are valid until
        the next ones.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back the memory of all caches but the one that it was made with."""


class CopiedCaches(BranchLogits):
    """Continuations with a KV cache each, which begin as copies of `cache`, which holds the prompt."""

    def __init__(self, cache: KvCache) -> None:
        self._given = cache
        self._caches: dict[Continuation, KvCache] = {(): cache}

    def grow(self, continuations: Sequence[Continuation]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """See BranchLogits."""
        children = Counter(each[:-1] for each in continuations)
        for parent in set(self._caches) - set(children):
            self._drop(parent)
        for place, continuation in enumerate(continuations):
            parent = continuation[:-1]
            children[parent] -= 1
            # The last child goes on in its parent's own cache.
            cache = self._copy(parent) if children[parent] else self._caches.pop(parent)
            self._caches[continuation] = cache
            _append(cache, continuation[-1:])
            yield place, cache.logits()

    def close(self) -> None:
        """See BranchLogits."""
        for continuation in list(self._caches):
            self._drop(continuation)

    def _copy(self, continuation: Continuation) -> KvCache:
        copy = self._caches[continuation].fork()
        if copy is None:
            raise EdgephiError("expected a copy of a KV cache, found none", hint="please report this")
        return copy

    def _drop(self, continuation: Continuation) -> None:
        cache = self._caches.pop(continuation)
        if cache is not self._given:
            cache.close()


class OneCache(BranchLogits):
    """Continuations of engines that cannot copy a cache: what two do not share is computed again.

    `cache` holds the `prompt_tokens` of the prompt.
    """

    def __init__(self, cache: KvCache) -> None:
        self._cache = cache
        self._prompt_tokens = len(cache.tokens)

    def grow(self, continuations: Sequence[Continuation]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """See BranchLogits."""
        # In this order neighbours share the most.
        for place in sorted(range(len(continuations)), key=lambda place: continuations[place]):
            continuation = continuations[place]
            held = self._cache.tokens[self._prompt_tokens :]
            pairs = zip(held, continuation[:-1], strict=False)
            shared = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
            if shared is None:
                shared = min(len(held), len(continuation) - 1)
            self._cache.rewind(self._prompt_tokens + shared)
            _append(self._cache, continuation[shared:])
            yield place, self._cache.logits()

    def close(self) -> None:
        """See BranchLogits."""


def _append(cache: KvCache, tokens: Sequence[int]) -> None:
    for _ in cache.append(tokens):
        pass
