"""What `config.json` says of the model itself, by the names that the engine's class of its type reads.

mlx-lm's `SuScaledRoPE` is given LongRoPE's short and long factors and multiplies by the long ones whatever
the length. `config.json` therefore names the short factors twice: that is right up to the original context.
"""

import math
from typing import Any

from edgephi.checkpoint.architecture import (
    Architecture,
    ClippedGeglu,
    GatedSilu,
    MixtureOfExperts,
)
from edgephi.checkpoint.rotary import RotaryEmbedding
from edgephi.errors import NotSupportedError


def model_keys(architecture: Architecture, context: int) -> dict[str, Any]:
    """The keys of the architecture but for those that all types have."""
    match architecture.feed_forward:
        case GatedSilu(width=width):
            return _phi3(architecture, width, context)
        case MixtureOfExperts() as experts:
            return _phimoe(architecture, experts, context)
        case ClippedGeglu() as geglu:
            return _phi3small(architecture, geglu, context)


def _phi3(architecture: Architecture, width: int, context: int) -> dict[str, Any]:
    rotary = architecture.attention.rotary
    config = {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "hidden_act": "silu",
        "intermediate_size": width,
        "rms_norm_eps": architecture.norm.epsilon,
        "rope_theta": rotary.theta,
        "partial_rotary_factor": _rotary_share(rotary.size, architecture.attention.head_size),
        "max_position_embeddings": context,
        "original_max_position_embeddings": context,
        "rope_scaling": None,
    }
    if rotary.short_factor is not None:
        longest, original = rotary_lengths(rotary)
        config["max_position_embeddings"] = longest
        config["original_max_position_embeddings"] = original
        factors = list(rotary.short_factor)
        # The engine multiplies by its "long" factors whatever the length: these are right up to our context.
        config["rope_scaling"] = {"type": "longrope", "short_factor": factors, "long_factor": factors}
    return config


def _phimoe(architecture: Architecture, experts: MixtureOfExperts, context: int) -> dict[str, Any]:
    return {
        "architectures": ["PhiMoEForCausalLM"],
        "model_type": "phimoe",
        "hidden_act": "silu",
        "attention_bias": True,
        "lm_head_bias": True,
        "intermediate_size": experts.width,
        "num_local_experts": experts.experts,
        "num_experts_per_tok": experts.chosen,
        "router_jitter_noise": experts.jitter,
        "rms_norm_eps": architecture.norm.epsilon,
        "rope_theta": architecture.attention.rotary.theta,
        **_scaled_rotary(architecture.attention.rotary, context),
    }


def _phi3small(architecture: Architecture, geglu: ClippedGeglu, context: int) -> dict[str, Any]:
    attention = architecture.attention
    config = {
        "architectures": ["Phi3SmallForCausalLM"],
        "model_type": "phi3small",
        "hidden_act": "gegelu",
        "ff_intermediate_size": geglu.width,
        "gegelu_limit": geglu.limit,
        "layer_norm_epsilon": architecture.norm.epsilon,
        "mup_use_scaling": True,
        "mup_attn_multiplier": attention.score_scale * attention.head_size,
        "mup_embedding_multiplier": architecture.embedding_multiplier,
        "mup_width_multiplier": 1 / architecture.logits_multiplier,
        "rope_embedding_base": attention.rotary.theta,
        "dense_attention_every_n_layers": 1,
        "unused_token_ids": list(architecture.unused_token_ids),
        **_scaled_rotary(attention.rotary, context),
    }
    if attention.sparsity is not None:
        config |= {
            "dense_attention_every_n_layers": attention.sparsity.dense_every,
            "blocksparse_block_size": attention.sparsity.block_size,
            "blocksparse_num_local_blocks": attention.sparsity.local_blocks,
            "blocksparse_vert_stride": attention.sparsity.stride,
            "blocksparse_head_shift": attention.sparsity.head_shift,
        }
    return config


def _scaled_rotary(rotary: RotaryEmbedding, context: int) -> dict[str, Any]:
    """RoPE for a class that is told the magnitude; plain RoPE is one with factors of 1."""
    factors = list(rotary.short_factor or [1.0] * (rotary.size // 2))
    return {
        "max_position_embeddings": context,
        "original_max_position_embeddings": context,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": factors,
            "long_factor": factors,
            "short_mscale": rotary.magnitude,
            "long_mscale": rotary.magnitude,
        },
    }


def _rotary_share(size: int, head_size: int) -> float:
    """The share of a head that is rotated, such that mlx-lm's `int(head_size * share)` is `size`."""
    share = size / head_size
    return share if int(head_size * share) == size else math.nextafter(share, 1.0)


def rotary_lengths(rotary: RotaryEmbedding) -> tuple[int, int]:
    """The longest and the original context that give mlx-lm the magnitude of this RoPE.

    It computes sqrt(1 + ln(longest / original) / ln(original)) and takes no attention factor, so where a
    checkpoint names its own, the longest context is what would give that one.
    """
    original = rotary.original_context
    longest = original
    if 1 < rotary.magnitude < 4:  # a power that a float can hold
        longest = round(original**rotary.magnitude**2)
    found = math.sqrt(1 + math.log(longest / original) / math.log(original)) if longest > original else 1.0
    if not math.isclose(found, rotary.magnitude, rel_tol=1e-6):
        raise NotSupportedError(
            f"LongRoPE's attention factor {rotary.magnitude:g}: mlx-lm cannot be told, it derives its own",
            hint="choose another target",
        )
    return longest, original
