"""`config.json` of a checkpoint -> the facts about its architecture that every later step uses."""

from dataclasses import dataclass

from edgephi.phi import RotaryEmbedding


@dataclass(frozen=True)
class Architecture:
    """The shape of one `Phi3ForCausalLM`.

    `head_size` is `hidden_size // heads`. A token sees itself and the `sliding_window - 1` tokens before
    it; None means all of them. With `tied_embeddings` the head is the embedding's matrix.
    """

    vocabulary_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    norm_epsilon: float
    rotary: RotaryEmbedding
    context: int
    sliding_window: int | None
    tied_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.heads

    @property
    def qkv_rows(self) -> int:
        """Rows of the fused projection: all query heads, then all key heads, then all value heads."""
        return (self.heads + 2 * self.kv_heads) * self.head_size

    @property
    def head_name(self) -> str:
        """The tensor that turns hidden states into logits."""
        return "model.embed_tokens.weight" if self.tied_embeddings else "lm_head.weight"

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the checkpoint, under the names that `transformers` saves."""
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary_size, self.hidden_size)
        }
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            shapes[prefix + "input_layernorm.weight"] = (self.hidden_size,)
            shapes[prefix + "self_attn.qkv_proj.weight"] = (self.qkv_rows, self.hidden_size)
            shapes[prefix + "self_attn.o_proj.weight"] = (self.hidden_size, self.heads * self.head_size)
            shapes[prefix + "post_attention_layernorm.weight"] = (self.hidden_size,)
            shapes[prefix + "mlp.gate_up_proj.weight"] = (2 * self.intermediate_size, self.hidden_size)
            shapes[prefix + "mlp.down_proj.weight"] = (self.hidden_size, self.intermediate_size)
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
