"""What has been computed is kept: the KV caches of several conversations, within a budget of memory.

A request takes the idle cache that shares the longest prefix of tokens with it, and only what comes after
that is computed. Caches of another adapter, or of none, share nothing with it. What else the cache holds, its
tail, belongs to another conversation, or to another continuation of this one. So, in this order:

1. No tail: the request goes on where the cache ends, as the next turn of a conversation does.
2. The engine can copy a cache, and there is room for the copy: the request gets the copy, and nothing is
   lost. Caches that were used before the copied one make room. (Not for a prefix of a few tokens.)
3. The tail is not longer than the prefix, or nobody will come back for it (that of a single prompt): it is
   given up. To compute the prefix again would take longer than to compute the tail again some day.
4. There is room for another cache: the request gets an empty one.
5. The least recently used cache is given up, but for what it shares with the request.

Room: all caches together take at most the budget, and no more memory is taken than is available. What is
needed is looked at before a cache is opened or grows, for the whole request, its answer included; idle caches
are closed to make room, least recently used first, and without room the request is refused.

A prefix can be kept ready (the system message of a server): the last cache that holds it is given up only
when nothing else can be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgephi.errors import DoesNotFitError, EdgephiError
from edgephi.runtime.adapter import Engine, KvCache

# A single prompt's cache is opened a little larger, so that the next one, with the same system message, fits.
_CAPACITY_STEP = 32  # tokens
# To compute fewer tokens again takes less than to copy what comes after them.
_SHORTEST_COPIED = 16  # tokens
# llama.cpp holds the keys and values once more while it copies them.
_COPY_FACTOR = 2
# What else a request takes: activations, logits, Python.
_RESERVE_BYTES = 32 << 20


@dataclass
class _Entry:
    """One open cache, computed with `adapter` or, where that is "", without one.

    `most_tokens` it has held so far, and its memory never shrinks. `promised` tokens it holds at most when
    the request that uses it has ended. `wanted_again` says whether anybody may come back for its tail.
    """

    cache: KvCache
    adapter: str = ""
    most_tokens: int = 0
    promised: int = 0
    last_used: int = 0
    in_use: bool = False
    wanted_again: bool = True


@dataclass(frozen=True)
class Lease:
    """A cache for one answer. It holds the first `reused` tokens of the request; the others are missing."""

    cache: KvCache
    reused: int


class PrefixCache:
    """The KV caches of one engine.

    `context` is the most tokens of a request, `token_bytes` what one token takes in a cache, and `available`
    says how many bytes can still be taken. Raises DoesNotFitError when not even one cache for the whole
    context fits into `budget` bytes.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        context: int,
        budget: int,
        token_bytes: int,
        available: Callable[[], int],
    ) -> None:
        if context * token_bytes > budget:
            raise DoesNotFitError(
                f"expected cache_bytes of at least {context * token_bytes} for a context of {context} "
                f"tokens, found {budget}",
                hint="give it more memory, or open the bundle with a smaller context",
            )
        self._engine = engine
        self._context = context
        self._budget = budget
        self._token_bytes = token_bytes
        self._available = available
        self._entries: list[_Entry] = []
        self._clock = 0
        self._ready: list[int] = []
        self._ready_adapter = ""

    def __len__(self) -> int:
        """How many caches are open."""
        return len(self._entries)

    @property
    def held(self) -> list[list[int]]:
        """The tokens of each cache, least recently used first."""
        return [list(each.cache.tokens) for each in sorted(self._entries, key=lambda each: each.last_used)]

    @contextlib.contextmanager
    def take(
        self, tokens: Sequence[int], length: int, *, comes_back: bool = True, adapter: str = ""
    ) -> Iterator[Lease]:
        """A cache for the prompt `tokens` and an answer, at most `length` tokens together, of an adapter.

        `comes_back` says whether a later request may go on from there: then a cache for the whole context is
        opened, so that the conversation never has to move to a larger one. Raises DoesNotFitError. When the
        engine fails within the block, the cache is closed.
        """
        capacity = self._capacity(length, comes_back=comes_back)
        # A conversation must not begin in a cache that it soon has to leave.
        least = capacity if comes_back else length
        entry, shared = self._choose(tokens, length, capacity, least=least, adapter=adapter)
        entry.in_use = True
        try:
            self._reserve(entry, length)
            try:
                entry.cache.rewind(shared)
                entry.wanted_again = comes_back
                yield Lease(entry.cache, shared)
            except EdgephiError:
                self._close(entry)
                raise
        finally:
            self._clock += 1
            entry.last_used = self._clock
            entry.most_tokens = max(entry.most_tokens, len(entry.cache.tokens))
            entry.promised = 0
            entry.in_use = False

    def open_ahead(self, adapter: str = "") -> None:
        """Open a cache for the whole context, unless one is open, where that takes the memory for it.

        An engine may take seconds to fill so much, which the first conversation then need not wait for. To
        begin in a small cache would be worse: none can grow, and to compute a prompt again in a larger one
        takes far longer than to fill memory. Raises DoesNotFitError.
        """
        if self._engine.allocates_ahead and all(
            entry.cache.capacity < self._context or entry.adapter != adapter for entry in self._entries
        ):
            self._open(self._context, adapter)

    def keep_ready(self, tokens: Sequence[int], adapter: str = "") -> None:
        """Compute `tokens`, and give up the last cache that has them only when nothing else can be."""
        with self.take(tokens, len(tokens), adapter=adapter) as lease:
            for _ in lease.cache.append(tokens[lease.reused :]):
                pass
        self._ready, self._ready_adapter = list(tokens), adapter

    def make_room(self, length: int, more: int) -> None:
        """Close idle caches until another one of `length` tokens, and `more` bytes beside it, can be had.

        For a sequence that is computed beside the caches and not kept. Raises DoesNotFitError.
        """
        needed = length * self._token_bytes + more
        while not self._is_available(needed):
            if not self._close_one(but=None):
                raise DoesNotFitError(
                    f"{length} tokens and their logits need {needed / 1e9:.2f} GB of memory, "
                    f"{max(0, self._available() - _RESERVE_BYTES) / 1e9:.2f} GB are available",
                    hint="stop other programs, or give a shorter text",
                )

    def close(self) -> None:
        """Close all caches."""
        for entry in list(self._entries):
            self._close(entry)

    def _capacity(self, length: int, *, comes_back: bool) -> int:
        """For how many tokens a new cache is opened."""
        if comes_back or not self._engine.allocates_ahead:
            return self._context
        return min(self._context, -(-length // _CAPACITY_STEP) * _CAPACITY_STEP)

    def _choose(
        self, tokens: Sequence[int], length: int, capacity: int, *, least: int, adapter: str
    ) -> tuple[_Entry, int]:
        """The cache for a request, and how many of its tokens are of use; see the module's docstring.

        A new one is opened for `capacity` tokens; one that there is must have been opened for `least`.
        """
        for entry in self._idle():
            if not entry.wanted_again and entry.cache.capacity < least:  # a single prompt's, and too small
                self._close(entry)
        # The last token is always computed, because its logits are needed.
        shared = {
            id(entry): _common(entry.cache.tokens, tokens[:-1])
            for entry in self._idle()
            if entry.cache.capacity >= least and entry.adapter == adapter
        }
        fitting = [entry for entry in self._entries if id(entry) in shared]
        if not fitting:
            return self._open(capacity, adapter), 0

        def tail(entry: _Entry) -> int:
            return len(entry.cache.tokens) - shared[id(entry)] if entry.wanted_again else 0

        best = max(fitting, key=lambda entry: (shared[id(entry)], -tail(entry), entry.last_used))
        prefix = shared[id(best)]
        if tail(best) == 0:
            return best, prefix
        copy = self._copy(best, length) if prefix >= _SHORTEST_COPIED else None
        if copy is not None:
            return copy, prefix
        if tail(best) <= prefix:
            return best, prefix
        if self._has_room(self._new_bytes(capacity, length)):
            return self._open(capacity, adapter), 0
        oldest = min((entry for entry in fitting if entry in self._entries), key=self._worth)
        return oldest, shared[id(oldest)]

    def _open(self, capacity: int, adapter: str) -> _Entry:
        """A new cache, after idle ones have made room for it. Raises DoesNotFitError."""
        needed = self._new_bytes(capacity, 0)
        while not self._has_room(needed):
            if not self._close_one(but=None):
                raise self._refusal(needed, capacity)
        entry = _Entry(self._engine.open_cache(capacity, adapter=adapter), adapter)
        self._entries.append(entry)
        return entry

    def _copy(self, entry: _Entry, length: int) -> _Entry | None:
        """A copy of a cache; None when the engine makes none, or there is no room for it.

        Only caches that are worth less than the copied one make room.
        """
        if not self._engine.copies_caches:
            return None
        needed = self._new_bytes(entry.cache.capacity, max(entry.most_tokens, length))
        less = [each for each in self._idle() if self._worth(each) < self._worth(entry)]
        less.sort(key=self._worth, reverse=True)
        if not self._has_room(needed, peak=_COPY_FACTOR * needed, freed=sum(map(self._bytes, less))):
            return None
        while not self._has_room(needed, peak=_COPY_FACTOR * needed):
            if not less:
                return None
            self._close(less.pop())
        cache = entry.cache.fork()
        if cache is None:
            return None
        copy = _Entry(cache, entry.adapter, most_tokens=len(cache.tokens))
        self._entries.append(copy)
        return copy

    def _reserve(self, entry: _Entry, length: int) -> None:
        """Make sure that a cache can grow to `length` tokens; idle ones make room. Or DoesNotFitError."""
        entry.promised = length
        if self._engine.allocates_ahead:
            return
        growth = max(0, length - entry.most_tokens) * self._token_bytes
        while self._used() > self._budget or not self._is_available(growth):
            if not self._close_one(but=entry):
                raise self._refusal(growth, length)

    def _new_bytes(self, capacity: int, length: int) -> int:
        """What a cache takes that is opened for `capacity` tokens, and is to hold `length`."""
        return (capacity if self._engine.allocates_ahead else length) * self._token_bytes

    def _bytes(self, entry: _Entry) -> int:
        """What a cache takes, or will take when the request that uses it has ended."""
        tokens = max(entry.most_tokens, entry.promised)
        return (entry.cache.capacity if self._engine.allocates_ahead else tokens) * self._token_bytes

    def _used(self) -> int:
        """Bytes of all caches."""
        return sum(map(self._bytes, self._entries))

    def _has_room(self, needed: int, *, peak: int = 0, freed: int = 0) -> bool:
        """Whether so many bytes more are within the budget, and they or `peak` of them available.

        That is, when `freed` bytes have been given back.
        """
        if self._token_bytes == 0:  # an old bundle does not tell: one cache, as it was when that was built
            return not self._entries
        fits = self._used() - freed + needed <= self._budget
        return fits and self._is_available(max(needed, peak) - freed)

    def _is_available(self, needed: int) -> bool:
        return needed <= 0 or needed + _RESERVE_BYTES <= self._available()

    def _refusal(self, needed: int, tokens: int) -> DoesNotFitError:
        """Why there is no room for so many bytes, after all that is idle has been closed."""
        if self._is_available(needed):
            return DoesNotFitError(
                f"the KV cache for {tokens} tokens does not fit beside those of other unfinished answers",
                hint="end those answers first, or give the caches more memory (cache_bytes)",
            )
        return DoesNotFitError(
            f"the KV cache for {tokens} tokens needs {needed / 1e9:.2f} GB of memory, "
            f"{max(0, self._available() - _RESERVE_BYTES) / 1e9:.2f} GB are available",
            hint="stop other programs, ask for fewer tokens, or open the bundle with a smaller context",
        )

    def _idle(self) -> list[_Entry]:
        return [entry for entry in self._entries if not entry.in_use]

    def _worth(self, entry: _Entry) -> tuple[bool, bool, int]:
        """What is given up last comes last: the last holder of what is kept ready, then by time."""
        return self._is_last_ready(entry), entry.wanted_again, entry.last_used

    def _is_last_ready(self, entry: _Entry) -> bool:
        """Whether no other cache begins with the tokens that are kept ready."""
        size = len(self._ready)
        holders = [
            each
            for each in self._entries
            if each.adapter == self._ready_adapter and list(each.cache.tokens[:size]) == self._ready
        ]
        return bool(size) and holders == [entry]

    def _close_one(self, *, but: _Entry | None) -> bool:
        """Close the idle cache that is worth least; False when there is none."""
        idle = [entry for entry in self._idle() if entry is not but]
        if idle:
            self._close(min(idle, key=self._worth))
        return bool(idle)

    def _close(self, entry: _Entry) -> None:
        self._entries = [each for each in self._entries if each is not entry]
        entry.cache.close()


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest prefix that two sequences of tokens share."""
    size = min(len(one), len(other))
    if list(one[:size]) == list(other[:size]):  # what is usual, and quick
        return size
    return next(place for place in range(size) if one[place] != other[place])
