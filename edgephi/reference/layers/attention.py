"""Causal grouped-query attention with RoPE in NumPy float32, a block of scores at a time.

Sources: RoPE (arXiv:2104.09864), LongRoPE (arXiv:2402.13753), GQA (arXiv:2305.13245).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Attention, BlockSparsity
from edgephi.checkpoint.rotary import RotaryEmbedding
from edgephi.reference.workers import share

SCORE_BLOCK_BYTES = 8 << 20
"""Size of a worker's block of float32 attention scores; larger ones only fall out of the CPU's cache."""

Floats = NDArray[np.float32]

Show = Callable[[str, Floats], None]
"""Called with the name of an activation and its values, which it may change in place."""


@dataclass(frozen=True)
class Positions:
    """Which tokens are a passage of their own, and by how much the position of each of them rotates.

    `cosines` and `sines` [tokens, 1, rotary size / 2] are already multiplied by LongRoPE's magnitude.
    """

    passages: tuple[slice, ...]
    cosines: Floats
    sines: Floats


def positions_of(rotary: RotaryEmbedding, passages: Sequence[slice]) -> Positions:
    """The positions of tokens in their passages, which lie one after the other and each begin at 0.

    A passage has LongRoPE's long factors when it is a long one, whatever the others are. Angles are float64,
    for they reach 10^5 radians.
    """
    cosines, sines = [], []
    for passage in passages:
        tokens = passage.stop - passage.start
        long = rotary.uses_long_factors(tokens)
        angles = np.arange(tokens)[:, None, None] * np.array(rotary.inverse_frequencies(long=long))
        magnitude = rotary.magnitude_of(long=long)
        cosines.append((np.cos(angles) * magnitude).astype(np.float32))  # [tokens, 1, rotary size / 2]
        sines.append((np.sin(angles) * magnitude).astype(np.float32))
    return Positions(tuple(passages), np.concatenate(cosines), np.concatenate(sines))


def attend(
    shape: Attention,
    positions: Positions,
    qkv: Floats,
    workers: Executor,
    show: Show,
    *,
    sparsity: BlockSparsity | None = None,
) -> Floats:
    """Causal grouped-query attention: fused [tokens, qkv rows] -> [tokens, heads * head size].

    No token sees one of another passage. `sparsity` is that of the layer. A worker takes one key head of a
    passage with the query heads that share it, and goes through the queries in blocks whose scores fit in
    SCORE_BLOCK_BYTES. Rotates the queries and keys inside `qkv`.
    """
    tokens = len(qkv)
    size, kv_heads, window = shape.head_size, shape.kv_heads, shape.window
    group = shape.heads // kv_heads  # query heads that share one key head
    fused = qkv.reshape(tokens, -1, size)  # a view: q heads, k heads, v heads
    queries = fused[:, : shape.heads].reshape(tokens, kv_heads, group, size)
    keys, values = np.split(fused[:, shape.heads :], 2, axis=1)  # views, [tokens, kv heads, size]
    mixed = np.empty((tokens, kv_heads, group, size), np.float32)
    show("query", queries)
    show("key", keys)
    show("value", values)

    def attend_head(item: tuple[slice, int]) -> None:
        at, head = item
        for heads in (queries[at, head], keys[at, head, None]):
            _rotate(heads, positions.cosines[at], positions.sines[at])
        queries[at, head] *= np.float32(shape.score_scale)
        show("rotated_query", queries[at, head])
        show("rotated_key", keys[at, head])
        mask = _Mask(window, sparsity, range(head * group, (head + 1) * group))
        _mix(queries[at, head], keys[at, head], values[at, head], mixed[at, head], mask=mask, show=show)

    share(workers, attend_head, [(at, head) for at in positions.passages for head in range(kv_heads)])
    show("mixed", mixed)
    return mixed.reshape(tokens, -1)


def _mix(queries: Floats, keys: Floats, values: Floats, mixed: Floats, *, mask: "_Mask", show: Show) -> None:
    """Fill `mixed` [tokens, group, size] with what `queries` of that shape find in `keys` [tokens, size]."""
    tokens, group, size = queries.shape
    step = max(1, SCORE_BLOCK_BYTES // (4 * group * tokens))
    for start in range(0, tokens, step):
        stop = min(start + step, tokens)
        # The first query of the block sees the farthest back, the last one the farthest forward.
        oldest = mask.oldest(start)
        query = queries[start:stop].reshape(-1, size)  # [queries * group, size]
        scores = query @ keys[oldest:stop].T  # [queries * group, keys]
        show("scores", scores)
        by_query = scores.reshape(stop - start, group, -1)  # a view: [queries, group, keys]
        np.copyto(by_query, -np.inf, where=mask.unseen(start, stop, oldest))
        _softmax_in_place(scores)
        show("probabilities", scores)
        answer = scores @ values[oldest:stop]  # [queries * group, size]
        mixed[start:stop] = answer.reshape(stop - start, group, size)


def _rotate(heads: Floats, cos: Floats, sin: Floats) -> None:
    """Apply RoPE to [tokens, heads, head size] in place.

    Dimension i of the first half of the rotated ones is paired with dimension i of the second half; the
    dimensions past the rotated ones (partial RoPE) stay as they are.
    """
    half = cos.shape[-1]  # of [tokens, 1, half]
    first, second = heads[..., :half], heads[..., half : 2 * half]  # views, [tokens, heads, half]
    turned = first * cos - second * sin
    second *= cos
    second += first * sin
    first[...] = turned


@dataclass(frozen=True)
class _Mask:
    """What the queries of heads that share a key head see: keys up to their own."""

    window: int | None
    sparsity: BlockSparsity | None
    heads: range

    def oldest(self, query: int) -> int:
        """The first key that a query may see."""
        return 0 if self.window is None else max(0, query + 1 - self.window)

    def unseen(self, start: int, stop: int, oldest: int) -> NDArray[np.bool_]:
        """Which keys oldest:stop the queries start:stop do not see, [queries, 1 or heads, keys].

        A query sees itself and the keys before it; with a sliding window, `window` of them in all.
        """
        query = np.arange(start, stop)[:, None, None]
        key = np.arange(oldest, stop)[None, None, :]
        unseen: NDArray[np.bool_] = key > query
        if self.window is not None:
            unseen = unseen | (key <= query - self.window)
        if self.sparsity is not None and stop > self.sparsity.dense_tokens:
            block, heads = self.sparsity.block_size, np.array(self.heads)[None, :, None]
            unseen = unseen | ~self.sparsity.sees(query // block, key // block, heads)
        return unseen


def _softmax_in_place(scores: Floats) -> None:
    """Softmax over the last axis. Every row has a finite score, because a token always sees itself."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
