"""The architecture of a decoder, made of parts: all that later steps need to know about a model.

A file of `family/` makes one from a checkpoint's config. Where another model's norm, attention or
feed-forward computes something else, it is another kind of part beside the one here, not an option of it.
"""

from dataclasses import dataclass

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

    Each of the two has a `norm` before it and is added to the residual stream, whose width is `hidden_size`.
    With `tied_embeddings` the head is the embedding's matrix. `context` counts tokens.
    """

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
    def head_name(self) -> str:
        """The tensor that turns hidden states into logits."""
        return "model.embed_tokens.weight" if self.tied_embeddings else "lm_head.weight"

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the checkpoint, under the names that `transformers` saves."""
        attention = self.attention
        mixed = attention.heads * attention.head_size
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary_size, self.hidden_size)
        }
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            shapes[prefix + "input_layernorm.weight"] = (self.hidden_size,)
            shapes[prefix + "self_attn.qkv_proj.weight"] = (attention.rows, self.hidden_size)
            shapes[prefix + "self_attn.o_proj.weight"] = (self.hidden_size, mixed)
            shapes[prefix + "post_attention_layernorm.weight"] = (self.hidden_size,)
            shapes[prefix + "mlp.gate_up_proj.weight"] = (2 * self.feed_forward.width, self.hidden_size)
            shapes[prefix + "mlp.down_proj.weight"] = (self.hidden_size, self.feed_forward.width)
        shapes["model.norm.weight"] = (self.hidden_size,)
        if not self.tied_embeddings:
            shapes["lm_head.weight"] = (self.vocabulary_size, self.hidden_size)
        return shapes

    @property
    def parameters(self) -> int:
        """Number of weights in the checkpoint."""
        total = 0
        for shape in self.tensor_shapes().values():
            total += shape[0] * (shape[1] if len(shape) == 2 else 1)
        return total
