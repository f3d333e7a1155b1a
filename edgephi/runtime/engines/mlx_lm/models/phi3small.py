"""Phi-3-small, which mlx-lm's own class does not compute: its attention sees later tokens.

The names of the tensors are those of our artifacts, and query, key and value, gate and up lie one after the
other, so that mlx-lm refuses what it would compute wrongly.

Source: the architecture as its authors published it (`modeling_phi3_small.py`); MLX's own operators.
"""

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx import nn

from edgephi.runtime.engines.mlx_lm.package import engine_module

_base: Any = engine_module("base")
_rope: Any = engine_module("rope_utils")


@dataclass
class MlxPhi3SmallArguments(_base.BaseModelArgs):  # type: ignore[misc]
    """What `config.json` says, by the published keys where there are any."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    ff_intermediate_size: int
    gegelu_limit: float
    layer_norm_epsilon: float
    mup_attn_multiplier: float
    mup_embedding_multiplier: float
    mup_width_multiplier: float
    rope_embedding_base: float
    rope_scaling: dict[str, Any]
    original_max_position_embeddings: int
    dense_attention_every_n_layers: int
    blocksparse_block_size: int = 64
    blocksparse_num_local_blocks: int = 16
    blocksparse_vert_stride: int = 8
    blocksparse_head_shift: int = 1
    tie_word_embeddings: bool = True
    unused_token_ids: list[int] = field(default_factory=list)

    @property
    def head_size(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def dense_tokens(self) -> int:
        """Up to so many tokens every layer sees all of those before."""
        return self.blocksparse_block_size * self.blocksparse_num_local_blocks


def block_sparse_mask(args: MlxPhi3SmallArguments, past: int, count: int) -> Any:
    """Who sees whom: bool [heads, count, past + count], of `count` tokens after `past`.

    A token sees the nearest blocks up to its own place, and of those further back every
    `blocksparse_vert_stride`-th, which one differs from head to head.
    """
    queries = mx.arange(past, past + count)[:, None]
    keys = mx.arange(past + count)[None]
    block = args.blocksparse_block_size
    near = queries // block - keys // block < args.blocksparse_num_local_blocks  # [count, past + count]
    shifts = args.blocksparse_head_shift * mx.arange(args.num_attention_heads)[:, None]
    strided = (keys // block + shifts + 1) % args.blocksparse_vert_stride == 0  # [heads, past + count]
    return (queries >= keys) & (near | strided[:, None])


class MlxAttention(nn.Module):  # type: ignore[misc]
    """Grouped-query attention; what it may see is said by the mask of its layer's kind."""

    def __init__(self, args: MlxPhi3SmallArguments) -> None:
        super().__init__()
        size = args.head_size
        self.heads, self.kv_heads, self.size = args.num_attention_heads, args.num_key_value_heads, size
        self.scale = args.mup_attn_multiplier / size
        self.qkv_proj = nn.Linear(args.hidden_size, (self.heads + 2 * self.kv_heads) * size)
        self.o_proj = nn.Linear(self.heads * size, args.hidden_size)
        self.rope = _rope.SuScaledRoPE(
            size,
            base=args.rope_embedding_base,
            original_max_position_embeddings=args.original_max_position_embeddings,
            long_factor=args.rope_scaling["long_factor"],
            long_mscale=args.rope_scaling["long_mscale"],
        )

    def __call__(self, inputs: Any, mask: Any, cache: Any) -> Any:
        """What the tokens see, [batch, count, hidden]; `cache` takes their keys and values."""
        batch, count, _ = inputs.shape
        rows = self.qkv_proj(inputs).reshape(batch, count, -1, self.size).transpose(0, 2, 1, 3)
        queries, keys, values = mx.split(rows, [self.heads, self.heads + self.kv_heads], axis=1)
        past = 0 if cache is None else cache.offset
        queries, keys = self.rope(queries, offset=past), self.rope(keys, offset=past)
        if cache is not None:
            keys, values = cache.update_and_fetch(keys, values)
        found = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=self.scale, mask=mask)
        return self.o_proj(found.transpose(0, 2, 1, 3).reshape(batch, count, -1))


class MlxFeedForward(nn.Module):  # type: ignore[misc]
    """down(a * sigmoid(1.702 a) * (b + 1)) of a gate a and an up b that are clipped."""

    def __init__(self, args: MlxPhi3SmallArguments) -> None:
        super().__init__()
        self.limit = args.gegelu_limit
        self.gate_up_proj = nn.Linear(args.hidden_size, 2 * args.ff_intermediate_size)
        self.down_proj = nn.Linear(args.ff_intermediate_size, args.hidden_size)

    def __call__(self, inputs: Any) -> Any:
        """Of inputs [..., hidden], as many outputs."""
        gate, up = mx.split(self.gate_up_proj(inputs), 2, axis=-1)
        gate = mx.minimum(gate, self.limit)
        up = mx.clip(up, -self.limit, self.limit)
        return self.down_proj(gate * mx.sigmoid(1.702 * gate) * (up + 1))


class MlxLayer(nn.Module):  # type: ignore[misc]
    """Attention and feed-forward, each after a norm and added to what comes in."""

    def __init__(self, args: MlxPhi3SmallArguments) -> None:
        super().__init__()
        self.self_attn = MlxAttention(args)
        self.mlp = MlxFeedForward(args)
        self.input_layernorm = nn.LayerNorm(args.hidden_size, eps=args.layer_norm_epsilon)
        self.post_attention_layernorm = nn.LayerNorm(args.hidden_size, eps=args.layer_norm_epsilon)

    def __call__(self, inputs: Any, mask: Any, cache: Any) -> Any:
        """Hidden states [batch, count, hidden] after the layer."""
        inputs = inputs + self.self_attn(self.input_layernorm(inputs), mask, cache)
        return inputs + self.mlp(self.post_attention_layernorm(inputs))


class MlxDecoder(nn.Module):  # type: ignore[misc]
    """All but the head."""

    def __init__(self, args: MlxPhi3SmallArguments) -> None:
        super().__init__()
        self.args = args
        self.embed_tokens = nn.Embedding(args.vocab_size, args.hidden_size)
        self.layers = [MlxLayer(args) for _ in range(args.num_hidden_layers)]
        self.norm = nn.LayerNorm(args.hidden_size, eps=args.layer_norm_epsilon)

    def __call__(self, token_ids: Any, cache: Any = None) -> Any:
        """Hidden states [batch, count, hidden] of token ids [batch, count]."""
        args = self.args
        hidden = self.embed_tokens(token_ids) * args.mup_embedding_multiplier
        caches = cache or [None] * len(self.layers)
        past, count = caches[0].offset if cache else 0, token_ids.shape[1]
        dense = sparse = "causal" if count > 1 else None
        if past + count > args.dense_tokens:
            sparse = block_sparse_mask(args, past, count)[None]
        for number, (layer, own) in enumerate(zip(self.layers, caches, strict=True), 1):
            is_dense = number % args.dense_attention_every_n_layers == 0
            hidden = layer(hidden, dense if is_dense else sparse, own)
        return self.norm(hidden)


class MlxPhi3Small(nn.Module):  # type: ignore[misc]
    """The decoder and its head, which is the embedding in the published models."""

    def __init__(self, args: MlxPhi3SmallArguments) -> None:
        super().__init__()
        self.args = args
        self.model_type = args.model_type
        self.model = MlxDecoder(args)
        if not args.tie_word_embeddings:
            self.lm_head = nn.Linear(args.hidden_size, args.vocab_size, bias=False)
        # With an underscore it is none of the weights.
        self._is_unused = mx.zeros(args.vocab_size, mx.bool_)
        if args.unused_token_ids:
            self._is_unused[mx.array(args.unused_token_ids)] = True

    def __call__(self, token_ids: Any, cache: Any = None) -> Any:
        """Logits [batch, count, vocabulary] of token ids [batch, count]."""
        return self.head(self.model(token_ids, cache))

    def head(self, hidden: Any) -> Any:
        """Logits [..., vocabulary] of hidden states [..., hidden]; an unused id is never the likeliest."""
        is_tied = self.args.tie_word_embeddings
        products = self.model.embed_tokens.as_linear(hidden) if is_tied else self.lm_head(hidden)
        logits = products / self.args.mup_width_multiplier
        return mx.where(self._is_unused, mx.finfo(logits.dtype).min, logits)

    @property
    def layers(self) -> Any:
        """Its layers, each of which has a cache."""
        return self.model.layers


CLASSES = (MlxPhi3Small, MlxPhi3SmallArguments)
