"""What is added to the scores of attention: 0 where a new token sees another one, else very low.

Names: B batch, L new tokens, T all tokens so far.
"""

from dataclasses import dataclass

import numpy as np

from edgephi.checkpoint.architecture import Attention, BlockSparsity
from edgephi.engines.openvino_genai import SPARSE_MASK
from edgephi.export.openvino.intermediate_representation import UNKNOWN, Value
from edgephi.export.openvino.operators import Operators

_HIDDEN_SCORE = -65504.0  # float16's lowest: exp of it is 0, and a row of nothing else stays finite


@dataclass(frozen=True)
class AttentionMasks:
    """The masks of dense layers, f32 [B, 1, L, T], and of sparse ones, f32 [B, heads, L, T], if there are."""

    dense: Value
    sparse: Value | None
    sparsity: BlockSparsity | None

    def of(self, layer: int) -> Value:
        """The mask of a layer."""
        if self.sparse is None or self.sparsity is None or self.sparsity.is_dense(layer):
            return self.dense
        return self.sparse


@dataclass(frozen=True)
class _Places:
    """Where new tokens and those that they may look at stand, i64, and what there is of both."""

    length: Value  # [1]
    total: Value  # [1]
    query: Value  # [1, 1, L, 1]
    key: Value  # [1, 1, 1, T]
    real: Value  # boolean [B, 1, 1, T]: no padding
    texts: Value  # [1]


def attention_masks(
    o: Operators, attention: Attention, context: int, given: Value, attention_mask: Value
) -> AttentionMasks:
    """The masks for texts of at most `context` tokens. Of the new ones `given` has ids or embeddings."""
    length = o.dimension(given, 1)
    total = o.dimension(attention_mask, 1)
    past = o.subtract(o.scalar(total), o.scalar(length))
    places = _Places(
        length=length,
        total=total,
        query=o.unsqueeze(o.range(past, o.scalar(total)), [0, 1, 3]),
        key=o.unsqueeze(o.range(o.literal(0), o.scalar(total)), [0, 1, 2]),
        real=o.unsqueeze(o.convert(attention_mask, "boolean"), [1, 2]),
        texts=attention_mask,
    )
    dense = _dense(o, attention.window, context, places)
    sparsity = attention.sparsity
    if sparsity is None or context <= sparsity.dense_tokens:
        return AttentionMasks(dense, None, None)
    return AttentionMasks(dense, _block_sparse(o, sparsity, attention.heads, places), sparsity)


def _scores(o: Operators, allowed: Value, *, name: str = "") -> Value:
    return o.select(allowed, o.literal(0.0, "f32"), o.literal(_HIDDEN_SCORE, "f32"), name=name)


def _dense(o: Operators, window: int | None, context: int, places: _Places) -> Value:
    """A token sees itself and those before it, or as many of them as the window has."""
    seen = o.less_equal(places.key, places.query)  # [1, 1, L, T]
    if window is None or window >= context:
        return _scores(o, o.both(seen, places.real))
    near = o.greater(places.key, o.add(places.query, o.literal(-window)))
    # Paged attention knows a window by exactly this chain: four "and" with the window in the first, then
    # Broadcast, Select and Slice. It takes the number from `near` and drops the mask.
    allowed = o.both(o.both(places.real, o.both(o.both(seen, near), places.real)), seen)
    shape = o.concat([o.dimension(places.texts, 0), o.literal([1]), places.length, places.total], 0)
    everywhere = o.broadcast(allowed, shape, (UNKNOWN, 1, UNKNOWN, UNKNOWN))
    return o.slice(_scores(o, everywhere), stop=places.total, axis=3)


def _block_sparse(o: Operators, sparsity: BlockSparsity, heads: int, places: _Places) -> Value:
    """A token sees the blocks near its own, and of those before them every so many, others for each head."""
    size = o.literal(sparsity.block_size)
    query, key = o.divide(places.query, size), o.divide(places.key, size)  # numbers of blocks
    near = o.less(o.subtract(query, key), o.literal(sparsity.local_blocks))
    shifts = o.literal((np.arange(heads) * sparsity.head_shift + 1).reshape(1, heads, 1, 1))
    chosen = o.equal(o.remainder(o.add(key, shifts), o.literal(sparsity.stride)), o.literal(0))
    seen = o.both(o.less_equal(places.key, places.query), places.real)
    allowed = o.both(o.either(near, chosen), seen)  # [B, heads, L, T]
    return _scores(o, allowed, name=SPARSE_MASK)
