"""Configs as the makers of the family publish them, but for the numbers of LongRoPE's factors."""

from typing import Any

MINI_4K: dict[str, Any] = {
    "model_type": "phi3",
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
}
MINI_128K: dict[str, Any] = {
    **MINI_4K,
    "max_position_embeddings": 131072,
    "sliding_window": 262144,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0 + i / 24 for i in range(48)],
        "long_factor": [1.0 + i * 4 / 3 for i in range(48)],
    },
}
PHI_4_MINI: dict[str, Any] = {
    **MINI_128K,
    "vocab_size": 200064,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.75,
    "tie_word_embeddings": True,
    "lm_head_bias": False,
    "mlp_bias": False,
    "bos_token_id": 199999,
    "eos_token_id": 199999,
    "pad_token_id": 199999,
}
CONFIGS = {
    "mini-4k": MINI_4K,
    "mini-128k": MINI_128K,
    "phi-4-mini": PHI_4_MINI,
    "phi-4": {**MINI_4K, "max_position_embeddings": 16384, "rope_theta": 250000.0, "num_key_value_heads": 8},
}


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def with_rope(**changes: Any) -> dict[str, Any]:
    return {**MINI_128K, "rope_scaling": {**MINI_128K["rope_scaling"], **changes}}
