"""The configurations of the MLX artifact: `config.json` for mlx-lm, `tokenizer_config.json` for transformers.

mlx-lm's `SuScaledRoPE` is given LongRoPE's short and long factors and multiplies by the long ones whatever
the length. `config.json` therefore names the short factors twice: that is right up to the original context.
"""

import math
from typing import Any

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.rotary import RotaryEmbedding
from edgephi.checkpoint.tokenizer import TokenizerFacts
from edgephi.declared.target import Kernels
from edgephi.errors import NotSupportedError
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.tensor_plan import TensorPlans, quantised_tensors


def mlx_config(
    architecture: Architecture,
    plans: TensorPlans,
    kernels: Kernels,
    stop_token_ids: tuple[int, ...],
    context: int,
) -> dict[str, Any]:
    """What mlx-lm reads as `config.json`. Its generation stops at every id of `eos_token_id`."""
    rotary = architecture.attention.rotary
    config: dict[str, Any] = {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "bos_token_id": architecture.bos_token_id,
        "eos_token_id": list(stop_token_ids),
        "pad_token_id": architecture.pad_token_id,
        "hidden_act": "silu",
        "hidden_size": architecture.hidden_size,
        "intermediate_size": architecture.feed_forward.width,
        "num_attention_heads": architecture.attention.heads,
        "num_hidden_layers": architecture.layers,
        "num_key_value_heads": architecture.attention.kv_heads,
        "rms_norm_eps": architecture.norm.epsilon,
        "vocab_size": architecture.vocabulary_size,
        "tie_word_embeddings": architecture.tied_embeddings,
        "torch_dtype": kernels.activations,
        "rope_theta": rotary.theta,
        "partial_rotary_factor": _rotary_share(rotary.size, architecture.attention.head_size),
        "max_position_embeddings": context,
        "original_max_position_embeddings": context,
        "rope_scaling": None,
        "quantization": _quantization(plans),
    }
    if rotary.short_factor is not None:
        longest, original = rotary_lengths(rotary)
        config["max_position_embeddings"] = longest
        config["original_max_position_embeddings"] = original
        factors = list(rotary.short_factor)
        # The engine multiplies by its "long" factors whatever the length: these are right up to our context.
        config["rope_scaling"] = {"type": "longrope", "short_factor": factors, "long_factor": factors}
    return config


def tokenizer_config(architecture: Architecture, tokenizer: TokenizerFacts, context: int) -> dict[str, Any]:
    """What transformers' AutoTokenizer reads, so that ids and prompts are ours.

    The plain fast class takes `tokenizer.json` as it is. Those that published checkpoints name rebuild it.
    """
    texts = {id_: text for text, id_ in tokenizer.special_tokens.items()}
    special = {
        "bos_token": architecture.bos_token_id,
        "eos_token": next(iter((*architecture.eos_token_ids, *tokenizer.stop_token_ids))),
        "pad_token": architecture.pad_token_id,
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_eos_token": False,
        **{role: texts[id_] for role, id_ in special.items() if id_ in texts},
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "padding_side": "left",
        "chat_template": tokenizer.chat.template,
    }


def _quantization(plans: TensorPlans) -> dict[str, Any]:
    """The block that says how to read the codes: the layers' scheme, and each module that has another."""
    schemes = quantised_tensors(plans)
    layers = next(scheme for tensor, scheme in schemes.items() if tensor.layer is not None)
    block: dict[str, Any] = {"group_size": layers.group_size, "bits": layers.bits, "mode": "affine"}
    for tensor, scheme in schemes.items():
        if (scheme.bits, scheme.group_size) != (layers.bits, layers.group_size):
            own = {"group_size": scheme.group_size, "bits": scheme.bits, "mode": "affine"}
            block[tensor_name(tensor).removesuffix(".weight")] = own
    return block


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
