"""Causal grouped-query attention with RoPE in NumPy float32, a block of scores at a time.

Sources: RoPE (arXiv:2104.09864), LongRoPE (arXiv:2402.13753), GQA (arXiv:2305.13245).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Attention
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
    angles = []
    for passage in passages:
        tokens = passage.stop - passage.start
        frequencies = np.array(rotary.inverse_frequencies(long=rotary.uses_long_factors(tokens)))
        angles.append(np.arange(tokens)[:, None, None] * frequencies)  # [tokens, 1, rotary size / 2]
    every = np.concatenate(angles)
    return Positions(
        tuple(passages),
        cosines=(np.cos(every) * rotary.magnitude).astype(np.float32),
        sines=(np.sin(every) * rotary.magnitude).astype(np.float32),
    )


def attend(shape: Attention, positions: Positions, qkv: Floats, workers: Executor, show: Show) -> Floats:
    """Causal grouped-query attention: fused [tokens, qkv rows] -> [tokens, heads * head size].

    No token sees one of another passage. A worker takes one key head of a passage with the query heads that
    share it, and goes through the queries in blocks whose scores fit in SCORE_BLOCK_BYTES. Rotates the
    queries and keys inside `qkv`.
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
        queries[at, head] *= np.float32(size**-0.5)
        show("rotated_query", queries[at, head])
        show("rotated_key", keys[at, head])
        _mix(queries[at, head], keys[at, head], values[at, head], mixed[at, head], window=window, show=show)

    share(workers, attend_head, [(at, head) for at in positions.passages for head in range(kv_heads)])
    show("mixed", mixed)
    return mixed.reshape(tokens, -1)


def _mix(
    queries: Floats, keys: Floats, values: Floats, mixed: Floats, *, window: int | None, show: Show
) -> None:
    """Fill `mixed` [tokens, group, size] with what `queries` of that shape find in `keys` [tokens, size]."""
    tokens, group, size = queries.shape
    step = max(1, SCORE_BLOCK_BYTES // (4 * group * tokens))
    for start in range(0, tokens, step):
        stop = min(start + step, tokens)
        # The first query of the block sees the farthest back, the last one the farthest forward.
        oldest = 0 if window is None else max(0, start + 1 - window)
        query = queries[start:stop].reshape(-1, size)  # [queries * group, size]
        scores = query @ keys[oldest:stop].T  # [queries * group, keys]
        show("scores", scores)
        by_query = scores.reshape(stop - start, group, -1)  # a view: [queries, group, keys]
        unseen = _unseen(start, stop, oldest, window)  # [queries, keys]
        np.copyto(by_query, -np.inf, where=unseen[:, None, :])
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


def _unseen(start: int, stop: int, oldest: int, window: int | None) -> NDArray[np.bool_]:
    """Which keys oldest:stop the queries start:stop do not see, [queries, keys].

    A query sees itself and the keys before it; with a sliding window, `window` of them in all.
    """
    query = np.arange(start, stop)[:, None]
    key = np.arange(oldest, stop)[None, :]
    later = key > query
    return later if window is None else later | (key <= query - window)


def _softmax_in_place(scores: Floats) -> None:
    """Softmax over the last axis. Every row has a finite score, because a token always sees itself."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
