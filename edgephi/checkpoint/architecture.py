"""The architecture of a decoder, made of parts: all that later steps need to know about a model.

A file of `family/` makes one from a checkpoint's config. Where another model's norm, attention or
feed-forward computes something else, it is another kind of part beside the one here, not an option of it.
"""

import math
from dataclasses import dataclass

from edgephi.checkpoint.roles import EMBEDDING, FINAL_NORM, HEAD, ModelTensor, Role
from edgephi.checkpoint.rotary import RotaryEmbedding


@dataclass(frozen=True)
class RmsNorm:
    """x / sqrt(mean(x²) + epsilon) * weight, over the hidden dimension."""

    epsilon: float


@dataclass(frozen=True)
class Attention:
    """Causal grouped-query attention whose scores are divided by sqrt(head size); no biases.

    A token sees itself and the `window - 1` tokens before it; None means all of them.
    """

    heads: int
    kv_heads: int
    head_size: int
    window: int | None
    rotary: RotaryEmbedding

    @property
    def rows(self) -> int:
        """Rows of the fused projection: all query heads, then all key heads, then all value heads."""
        return (self.heads + 2 * self.kv_heads) * self.head_size


@dataclass(frozen=True)
class GatedSilu:
    """down(silu(gate(x)) * up(x)), SwiGLU: gate and up have `width` rows each; no biases."""

    width: int


@dataclass(frozen=True)
class Architecture:
    """One model: an embedding, `layers` times attention and feed-forward, a last norm and a head.

    Attention and feed-forward each have a `norm` before them and are added to the residual stream, whose
    width is `hidden_size`. With `tied_embeddings` the head is the embedding's matrix. `context` is in tokens.
    `model_type` is that of the checkpoint, whose file in `family/` knows the names of its tensors.
    """

    model_type: str
    vocabulary_size: int
    hidden_size: int
    layers: int
    norm: RmsNorm
    attention: Attention
    feed_forward: GatedSilu
    context: int
    tied_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None

    @property
    def head(self) -> ModelTensor:
        """The tensor that turns hidden states into logits."""
        return EMBEDDING if self.tied_embeddings else HEAD

    def tensor_shapes(self) -> dict[ModelTensor, tuple[int, ...]]:
        """Every tensor of the model and its shape, in the order in which they are computed with."""
        attention, hidden = self.attention, self.hidden_size
        of_a_layer: dict[Role, tuple[int, ...]] = {
            Role.ATTENTION_NORM: (hidden,),
            Role.QUERY_KEY_VALUE: (attention.rows, hidden),
            Role.ATTENTION_OUTPUT: (hidden, attention.heads * attention.head_size),
            Role.FEED_FORWARD_NORM: (hidden,),
            Role.GATE_UP: (2 * self.feed_forward.width, hidden),
            Role.DOWN: (hidden, self.feed_forward.width),
        }
        shapes: dict[ModelTensor, tuple[int, ...]] = {EMBEDDING: (self.vocabulary_size, hidden)}
        for layer in range(self.layers):
            shapes.update((ModelTensor(role, layer), shape) for role, shape in of_a_layer.items())
        shapes[FINAL_NORM] = (hidden,)
        if not self.tied_embeddings:
            shapes[HEAD] = (self.vocabulary_size, hidden)
        return shapes

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())
