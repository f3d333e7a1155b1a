"""Causal grouped-query attention with RoPE in NumPy float32, a block of scores at a time.

Sources: RoPE (arXiv:2104.09864), LongRoPE (arXiv:2402.13753), GQA (arXiv:2305.13245).
"""

from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Attention
from edgephi.checkpoint.rotary import RotaryEmbedding
from edgephi.reference.workers import share

SCORE_BLOCK_BYTES = 8 << 20
"""Size of a worker's block of float32 attention scores; larger ones only fall out of the CPU's cache."""

Floats = NDArray[np.float32]

Rotation = tuple[Floats, Floats]
"""Cosines and sines, each [tokens, 1, rotary size / 2], already multiplied by LongRoPE's magnitude."""

Show = Callable[[str, Floats], None]
"""Called with the name of an activation and its values, which it may change in place."""


def rotation(rotary: RotaryEmbedding, tokens: int) -> Rotation:
    """Cosines and sines for positions 0 .. tokens - 1; angles are float64, for they reach 10^5 radians."""
    frequencies = np.array(rotary.inverse_frequencies(long=rotary.uses_long_factors(tokens)))
    angles = np.arange(tokens)[:, None, None] * frequencies  # [tokens, 1, rotary size / 2]
    return (
        (np.cos(angles) * rotary.magnitude).astype(np.float32),
        (np.sin(angles) * rotary.magnitude).astype(np.float32),
    )


def attend(shape: Attention, qkv: Floats, rotation: Rotation, workers: Executor, show: Show) -> Floats:
    """Causal grouped-query attention: fused [tokens, qkv rows] -> [tokens, heads * head size].

    A worker takes one key head with the query heads that share it, and goes through the queries in blocks
    whose scores fit in SCORE_BLOCK_BYTES. Rotates the queries and keys inside `qkv`.
    """
    tokens = len(qkv)
    size, kv_heads, window = shape.head_size, shape.kv_heads, shape.window
    group = shape.heads // kv_heads  # query heads that share one key head
    fused = qkv.reshape(tokens, -1, size)  # a view: q heads, k heads, v heads
    queries = fused[:, : shape.heads].reshape(tokens, kv_heads, group, size)
    keys, values = np.split(fused[:, shape.heads :], 2, axis=1)  # views, [tokens, kv heads, size]
    mixed = np.empty((tokens, kv_heads, group, size), np.float32)
    step = max(1, SCORE_BLOCK_BYTES // (4 * group * tokens))

    show("query", queries)
    show("key", keys)
    show("value", values)

    def attend_head(head: int) -> None:
        _rotate(queries[:, head], rotation)
        _rotate(keys[:, head, None], rotation)
        queries[:, head] *= np.float32(size**-0.5)
        show("rotated_query", queries[:, head])
        show("rotated_key", keys[:, head])
        for start in range(0, tokens, step):
            stop = min(start + step, tokens)
            # The first query of the block sees the farthest back, the last one the farthest forward.
            oldest = 0 if window is None else max(0, start + 1 - window)
            query = queries[start:stop, head].reshape(-1, size)  # [queries * group, size]
            scores = query @ keys[oldest:stop, head].T  # [queries * group, keys]
            show("scores", scores)
            by_query = scores.reshape(stop - start, group, -1)  # a view: [queries, group, keys]
            unseen = _unseen(start, stop, oldest, window)  # [queries, keys]
            np.copyto(by_query, -np.inf, where=unseen[:, None, :])
            _softmax_in_place(scores)
            show("probabilities", scores)
            answer = scores @ values[oldest:stop, head]  # [queries * group, size]
            mixed[start:stop, head] = answer.reshape(stop - start, group, size)

    share(workers, attend_head, range(kv_heads))
    show("mixed", mixed)
    return mixed.reshape(tokens, -1)


def _rotate(heads: Floats, rotation: Rotation) -> None:
    """Apply RoPE to [tokens, heads, head size] in place.

    Dimension i of the first half of the rotated ones is paired with dimension i of the second half; the
    dimensions past the rotated ones (partial RoPE) stay as they are.
    """
    cos, sin = rotation  # each [tokens, 1, half]
    half = cos.shape[-1]
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
