"""A tiny random Phi-3-small, laid out as the published one: its names, its config keys, its block sparsity.

Blocks of 64 tokens, 16 of them near, every 8th of the others: with more than 1,024 tokens not all are seen.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.tiny_checkpoint import (
    PHI_3_5_LONG,
    PHI_3_5_SHORT,
    FloatKind,
    spread,
    write_with_phi_3_tokenizer,
)

Floats = NDArray[np.float32]

UNUSED = (507, 509, 510, 511)
"""Ids whose logits are the least number there is; only the published vocabulary's are known by themselves."""


@dataclass(frozen=True)
class TinySmall:
    """Options of one tiny Phi-3-small. With `longrope` it is laid out as the one of 128k tokens."""

    hidden: int = 256
    layers: int = 4
    heads: int = 8
    kv_heads: int = 2
    ffn: int = 320
    vocab: int = 512
    block: int = 64
    local_blocks: int = 16
    stride: int = 8
    same_for_all_heads: bool = False
    dense_every: int = 2
    context: int = 8192
    original_context: int = 8192
    longrope: bool = False
    short_magnitude: float = 1.0
    long_magnitude: float = 1.19
    dtype: FloatKind = "BF16"
    shards: int = 1
    seed: int = 0


def write_tiny_phi3small(folder: Path, shape: TinySmall = TinySmall(), **options: Any) -> Path:
    """Write a checkpoint of `shape` with single `options` replaced; its tokenizer is a Phi-3's.

    Returns `folder`. The same arguments always write the same bytes.
    """
    tiny = dataclasses.replace(shape, **options)
    return write_with_phi_3_tokenizer(
        folder,
        tiny.vocab,
        partial(tiny_phi3small_config, tiny),
        tiny_phi3small_weights(tiny),
        shards=tiny.shards,
        dtype=tiny.dtype,
    )


def tiny_phi3small_config(tiny: TinySmall, end_of_text: int) -> dict[str, Any]:
    """The `config.json` of `tiny`, with the keys of the published model."""
    config: dict[str, Any] = {
        "architectures": ["Phi3SmallForCausalLM"],
        "attention_bias": False,
        "attention_dropout_prob": 0.0,
        "blocksparse_block_size": tiny.block,
        "blocksparse_homo_head_pattern": tiny.same_for_all_heads,
        "blocksparse_num_local_blocks": tiny.local_blocks,
        "blocksparse_triton_kernel_block_size": tiny.block,
        "blocksparse_vert_stride": tiny.stride,
        "bos_token_id": 1,
        "dense_attention_every_n_layers": tiny.dense_every,
        "dummy_token_indices": [each for each in UNUSED if each < tiny.vocab],
        "embedding_dropout_prob": 0.1,
        "eos_token_id": end_of_text,
        "ff_dim_multiplier": None,
        "ff_intermediate_size": tiny.ffn,
        "ffn_dropout_prob": 0.1,
        "gegelu_limit": 20.0,
        "gegelu_pad_to_256": True,
        "hidden_act": "gegelu",
        "hidden_size": tiny.hidden,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": tiny.context,
        "model_type": "phi3small",
        "mup_attn_multiplier": 1.0,
        "mup_embedding_multiplier": 10.0,
        "mup_use_scaling": True,
        "mup_width_multiplier": 8.0,
        "num_attention_heads": tiny.heads,
        "num_hidden_layers": tiny.layers,
        "num_key_value_heads": tiny.kv_heads,
        "pad_sequence_to_multiple_of_64": True,
        "rope_embedding_base": 1000000,
        "rope_position_scale": 1.0,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": tiny.vocab,
    }
    if tiny.longrope:
        half = tiny.hidden // tiny.heads // 2
        config["original_max_position_embeddings"] = tiny.original_context
        config["rope_scaling"] = {
            "type": "su",
            "short_factor": spread(PHI_3_5_SHORT, half),
            "long_factor": spread(PHI_3_5_LONG, half),
            "short_mscale": tiny.short_magnitude,
            "long_mscale": tiny.long_magnitude,
            "original_max_position_embeddings": tiny.original_context,
        }
    return config


def tiny_phi3small_weights(tiny: TinySmall) -> dict[str, Floats]:
    """Random weights of `tiny`, float32. Some gates are larger than the limit of the GEGLU."""
    random = np.random.default_rng(tiny.seed)

    def normal(*shape: int, std: float, mean: float = 0.0) -> Floats:
        return np.float32(mean) + random.standard_normal(shape, dtype=np.float32) * np.float32(std)

    hidden, ffn, size = tiny.hidden, tiny.ffn, tiny.hidden // tiny.heads
    qkv_rows = (tiny.heads + 2 * tiny.kv_heads) * size
    weights = {"model.embed_tokens.weight": normal(tiny.vocab, hidden, std=0.3, mean=0.05)}
    for layer in range(tiny.layers):
        prefix = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}{norm}.weight"] = normal(hidden, std=0.1, mean=1.0)
            weights[f"{prefix}{norm}.bias"] = normal(hidden, std=0.1)
        for name, rows, columns, std in (
            ("self_attn.query_key_value", qkv_rows, hidden, 6.0),
            ("self_attn.dense", hidden, hidden, 2.0),
            ("mlp.up_proj", 2 * ffn, hidden, 3.0),
            ("mlp.down_proj", hidden, ffn, 0.2),
        ):
            weights[f"{prefix}{name}.weight"] = normal(rows, columns, std=std * columns**-0.5)
            weights[f"{prefix}{name}.bias"] = normal(rows, std=0.1)
        weights[f"{prefix}mlp.up_proj.bias"][:8] += 25  # past the limit of 20
    weights["model.final_layernorm.weight"] = normal(hidden, std=0.1, mean=1.0)
    weights["model.final_layernorm.bias"] = normal(hidden, std=0.1)
    return weights
