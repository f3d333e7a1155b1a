"""A tiny random Phi-3.5-MoE, laid out as the published one: its names, its config keys, its LongRoPE.

Biases and the means of what is embedded matter, so that an RMSNorm in the place of a layer norm shows; scores
of the router are close to each other now and then, and then both of its weights are not 1.
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

MAGNITUDE = 1.243163121016122
"""Of its cosines and sines, by the published config; LongRoPE's own formula would give 1.1902."""


@dataclass(frozen=True)
class TinyExperts:
    """Options of one tiny mixture of experts; `ffn` is the width of an expert."""

    hidden: int = 256
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 192
    experts: int = 16
    vocab: int = 512
    context: int = 131072
    original_context: int = 4096
    long_magnitude: float = MAGNITUDE
    tied: bool = False
    dtype: FloatKind = "BF16"
    shards: int = 1
    seed: int = 0


def write_tiny_phimoe(folder: Path, shape: TinyExperts = TinyExperts(), **options: Any) -> Path:
    """Write a checkpoint of `shape` with single `options` replaced; its tokenizer is a Phi-3's.

    Returns `folder`. The same arguments always write the same bytes.
    """
    tiny = dataclasses.replace(shape, **options)
    return write_with_phi_3_tokenizer(
        folder,
        tiny.vocab,
        partial(tiny_phimoe_config, tiny),
        tiny_phimoe_weights(tiny),
        shards=tiny.shards,
        dtype=tiny.dtype,
    )


def tiny_phimoe_config(tiny: TinyExperts, end_of_text: int) -> dict[str, Any]:
    """The `config.json` of `tiny`, with the keys of the published model."""
    half = tiny.hidden // tiny.heads // 2
    return {
        "architectures": ["PhiMoEForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": end_of_text,
        "hidden_act": "silu",
        "hidden_dropout": 0.0,
        "hidden_size": tiny.hidden,
        "initializer_range": 0.02,
        "input_jitter_noise": 0.01,
        "intermediate_size": tiny.ffn,
        "lm_head_bias": True,
        "max_position_embeddings": tiny.context,
        "model_type": "phimoe",
        "num_attention_heads": tiny.heads,
        "num_experts_per_tok": 2,
        "num_hidden_layers": tiny.layers,
        "num_key_value_heads": tiny.kv_heads,
        "num_local_experts": tiny.experts,
        "original_max_position_embeddings": tiny.original_context,
        "output_router_logits": False,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": spread(PHI_3_5_SHORT, half),
            "long_factor": spread(PHI_3_5_LONG, half),
            "short_mscale": MAGNITUDE,
            "long_mscale": tiny.long_magnitude,
            "original_max_position_embeddings": tiny.original_context,
        },
        "rope_theta": 10000.0,
        "router_aux_loss_coef": 0.0,
        "router_jitter_noise": 0.01,
        "sliding_window": tiny.context,
        "tie_word_embeddings": tiny.tied,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": tiny.vocab,
    }


def tiny_phimoe_weights(tiny: TinyExperts) -> dict[str, Floats]:
    """Random weights of `tiny`, float32, in the order of the published files."""
    random = np.random.default_rng(tiny.seed)

    def normal(*shape: int, std: float, mean: float = 0.0) -> Floats:
        return np.float32(mean) + random.standard_normal(shape, dtype=np.float32) * np.float32(std)

    def matrix(rows: int, columns: int) -> Floats:
        return normal(rows, columns, std=1.2 * columns**-0.5)

    hidden, size = tiny.hidden, tiny.hidden // tiny.heads
    # A mean that an RMSNorm would not take away.
    weights = {"model.embed_tokens.weight": normal(tiny.vocab, hidden, std=1.0, mean=0.3)}
    for layer in range(tiny.layers):
        prefix = f"model.layers.{layer}."
        moe, attention = prefix + "block_sparse_moe.", prefix + "self_attn."
        weights[moe + "gate.weight"] = normal(tiny.experts, hidden, std=0.15)
        for expert in range(tiny.experts):
            weights[f"{moe}experts.{expert}.w1.weight"] = matrix(tiny.ffn, hidden)
            weights[f"{moe}experts.{expert}.w2.weight"] = matrix(hidden, tiny.ffn)
            weights[f"{moe}experts.{expert}.w3.weight"] = matrix(tiny.ffn, hidden)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}{norm}.bias"] = normal(hidden, std=0.2, mean=0.1)
            weights[f"{prefix}{norm}.weight"] = normal(hidden, std=0.2, mean=1.0)
        kv_rows = tiny.kv_heads * size
        for name, rows in (("k", kv_rows), ("o", hidden), ("q", hidden), ("v", kv_rows)):
            weights[f"{attention}{name}_proj.bias"] = normal(rows, std=0.1)
            weights[f"{attention}{name}_proj.weight"] = matrix(rows, hidden)
    weights["model.norm.bias"] = normal(hidden, std=0.2, mean=0.1)
    weights["model.norm.weight"] = normal(hidden, std=0.2, mean=1.0)
    if not tiny.tied:
        weights["lm_head.weight"] = matrix(tiny.vocab, hidden)
    weights["lm_head.bias"] = normal(tiny.vocab, std=0.3)
    return weights
