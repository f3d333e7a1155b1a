"""The architecture of a decoder, made of parts: all that later steps need to know about a model.

A file of `family/` makes one from a checkpoint's config. Where another model's norm, attention or
feed-forward computes something else, it is another kind of part beside the one here, not an option of it.
"""

import math
from dataclasses import dataclass
from typing import Any

from edgephi.checkpoint.images.image_encoder import ImageEncoder
from edgephi.checkpoint.roles import (
    EMBEDDING,
    FINAL_NORM,
    FINAL_NORM_BIAS,
    HEAD,
    HEAD_BIAS,
    ModelTensor,
    Role,
)
from edgephi.checkpoint.rotary import RotaryEmbedding


@dataclass(frozen=True)
class RmsNorm:
    """x / sqrt(mean(x²) + epsilon) * weight, over the hidden dimension."""

    epsilon: float


@dataclass(frozen=True)
class LayerNorm:
    """(x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias, over the hidden dimension."""

    epsilon: float


Norm = RmsNorm | LayerNorm


@dataclass(frozen=True)
class BlockSparsity:
    """Which keys the queries of a head see, by blocks of `block_size` tokens: near ones, and some others.

    A block of queries sees its own block and the `local_blocks - 1` before it, and of the older ones every
    `stride`-th; which of these is another for each head, `head_shift` blocks earlier than for the one before.
    One layer in `dense_every` is dense: there every query sees all keys before it.

    Source: the block-sparse attention of the published `modeling_phi3_small.py`.
    """

    block_size: int
    local_blocks: int
    stride: int
    head_shift: int
    dense_every: int

    def is_dense(self, layer: int) -> bool:
        """Whether the attention of this layer is not sparse at all."""
        return (layer + 1) % self.dense_every == 0

    def sees(self, query_block: Any, key_block: Any, head: Any) -> Any:
        """Whether the queries of a block see the keys of another that is not later than theirs.

        Of numbers, or of arrays of them that broadcast.
        """
        near = query_block - key_block < self.local_blocks
        return near | ((key_block + head * self.head_shift + 1) % self.stride == 0)

    @property
    def dense_tokens(self) -> int:
        """Of so many tokens each sees all before it, in every layer."""
        return self.block_size * self.local_blocks


@dataclass(frozen=True)
class Attention:
    """Causal grouped-query attention. Its projections have biases, or all of them have none.

    A token sees itself and the `window - 1` tokens before it; None means all of them. `scale` is what scores
    are multiplied by, None for 1 / sqrt(head size). With a `sparsity` heads of some layers see fewer keys.
    """

    heads: int
    kv_heads: int
    head_size: int
    window: int | None
    rotary: RotaryEmbedding
    biases: bool = False
    scale: float | None = None
    sparsity: BlockSparsity | None = None

    @property
    def rows(self) -> int:
        """Rows of the fused projection: all query heads, then all key heads, then all value heads."""
        return (self.heads + 2 * self.kv_heads) * self.head_size

    @property
    def score_scale(self) -> float:
        """What the products of queries and keys are multiplied by."""
        return float(self.head_size**-0.5) if self.scale is None else self.scale

    def sparsity_of(self, layer: int) -> BlockSparsity | None:
        """How sparse the attention of a layer is, None where every query sees all keys before it."""
        return None if self.sparsity is None or self.sparsity.is_dense(layer) else self.sparsity


@dataclass(frozen=True)
class GatedSilu:
    """down(silu(gate(x)) * up(x)), SwiGLU: gate and up have `width` rows each; no biases."""

    width: int

    @property
    def active_width(self) -> int:
        """Numbers between the two halves for one token."""
        return self.width


@dataclass(frozen=True)
class ClippedGeglu:
    """down(a * sigmoid(1.702 a) * (b + 1)), a = min(gate(x), limit), b = up(x) within ± limit; with biases.

    A GEGLU (arXiv:2002.05202) whose GELU is the quick one. Gate and up have `width` rows each.

    Source: `gegelu` of the published `modeling_phi3_small.py`.
    """

    width: int
    limit: float

    @property
    def active_width(self) -> int:
        """Numbers between the two halves for one token."""
        return self.width


@dataclass(frozen=True)
class MixtureOfExperts:
    """The sum of `chosen` of `experts` feed-forwards, each a GatedSilu of `width`, by weights of a router.

    The router is SparseMixer's (arXiv:2310.00811) at inference: see `edgephi.reference.layers.routing`, where
    `jitter` is half the relative distance within which a score counts as close to the largest. No biases.
    """

    width: int
    experts: int
    chosen: int
    jitter: float

    @property
    def active_width(self) -> int:
        """Numbers between the two halves for one token, in all experts that it has."""
        return self.chosen * self.width


FeedForward = GatedSilu | ClippedGeglu | MixtureOfExperts


@dataclass(frozen=True)
class Architecture:
    """One model: an embedding, `layers` times attention and feed-forward, a last norm and a head.

    Attention and feed-forward each have a `norm` before them and are added to the residual stream, whose
    width is `hidden_size`. With `tied_embeddings` the head is the embedding's matrix. `context` is in tokens.
    `model_type` is that of the checkpoint, whose file in `family/` knows the names of its tensors.

    Embeddings and logits are multiplied by a number each, as in a model that was trained with muP
    (arXiv:2203.03466). Logits of `unused_token_ids`, which no text has, become the least number there is.

    With an `image_encoder` the decoder reads images too: what that makes of them stands in the place of
    embeddings. Its tensors are its own, and none of `tensor_shapes`.
    """

    model_type: str
    vocabulary_size: int
    hidden_size: int
    layers: int
    norm: Norm
    attention: Attention
    feed_forward: FeedForward
    context: int
    tied_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    head_bias: bool = False
    embedding_multiplier: float = 1.0
    logits_multiplier: float = 1.0
    unused_token_ids: tuple[int, ...] = ()
    image_encoder: ImageEncoder | None = None

    @property
    def head(self) -> ModelTensor:
        """The tensor that turns hidden states into logits."""
        return EMBEDDING if self.tied_embeddings else HEAD

    def tensor_shapes(self) -> dict[ModelTensor, tuple[int, ...]]:
        """Every tensor of the model and its shape, in the order in which they are computed with."""
        hidden = self.hidden_size
        of_a_layer = {**self._attention_shapes(), **self._feed_forward_shapes()}
        shapes: dict[ModelTensor, tuple[int, ...]] = {EMBEDDING: (self.vocabulary_size, hidden)}
        for layer in range(self.layers):
            shapes.update((ModelTensor(role, layer), shape) for role, shape in of_a_layer.items())
        shapes[FINAL_NORM] = (hidden,)
        if isinstance(self.norm, LayerNorm):
            shapes[FINAL_NORM_BIAS] = (hidden,)
        if not self.tied_embeddings:
            shapes[HEAD] = (self.vocabulary_size, hidden)
        if self.head_bias:
            shapes[HEAD_BIAS] = (self.vocabulary_size,)
        return shapes

    def _attention_shapes(self) -> dict[Role, tuple[int, ...]]:
        attention, hidden = self.attention, self.hidden_size
        shapes: dict[Role, tuple[int, ...]] = {Role.ATTENTION_NORM: (hidden,)}
        if isinstance(self.norm, LayerNorm):
            shapes[Role.ATTENTION_NORM_BIAS] = (hidden,)
        shapes[Role.QUERY_KEY_VALUE] = (attention.rows, hidden)
        if attention.biases:
            shapes[Role.QUERY_KEY_VALUE_BIAS] = (attention.rows,)
        shapes[Role.ATTENTION_OUTPUT] = (hidden, attention.heads * attention.head_size)
        if attention.biases:
            shapes[Role.ATTENTION_OUTPUT_BIAS] = (hidden,)
        return shapes

    def _feed_forward_shapes(self) -> dict[Role, tuple[int, ...]]:
        hidden, width = self.hidden_size, self.feed_forward.width
        shapes: dict[Role, tuple[int, ...]] = {Role.FEED_FORWARD_NORM: (hidden,)}
        if isinstance(self.norm, LayerNorm):
            shapes[Role.FEED_FORWARD_NORM_BIAS] = (hidden,)
        match self.feed_forward:
            case GatedSilu():
                shapes |= {Role.GATE_UP: (2 * width, hidden), Role.DOWN: (hidden, width)}
            case ClippedGeglu():
                shapes |= {Role.GATE_UP: (2 * width, hidden), Role.GATE_UP_BIAS: (2 * width,)}
                shapes |= {Role.DOWN: (hidden, width), Role.DOWN_BIAS: (hidden,)}
            case MixtureOfExperts(experts=experts):
                shapes[Role.ROUTER] = (experts, hidden)
                shapes[Role.EXPERTS_GATE_UP] = (experts, 2 * width, hidden)
                shapes[Role.EXPERTS_DOWN] = (experts, hidden, width)
        return shapes

    @property
    def parameters(self) -> int:
        """Number of weights, those of the image encoder included."""
        seeing = 0 if self.image_encoder is None else self.image_encoder.parameters
        return seeing + sum(math.prod(shape) for shape in self.tensor_shapes().values())

    @property
    def active_parameters(self) -> int:
        """Number of weights that one token is computed with: not those of the other experts."""
        feed_forward = self.feed_forward
        if not isinstance(feed_forward, MixtureOfExperts):
            return self.parameters
        idle = feed_forward.experts - feed_forward.chosen
        return self.parameters - 3 * self.layers * idle * feed_forward.width * self.hidden_size
