"""The MLX artifact's configurations: `config.json` for mlx-lm, `tokenizer_config.json` for transformers."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor
from edgephi.checkpoint.tokenizer import TokenizerFacts
from edgephi.declared.target import Kernels
from edgephi.export.mlx.model_keys import model_keys
from edgephi.export.mlx.parts import parts_of
from edgephi.export.tensor_names import WEIGHT_SUFFIX
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlans, quantised_tensors


def mlx_config(
    architecture: Architecture,
    plans: TensorPlans,
    kernels: Kernels,
    stop_token_ids: tuple[int, ...],
    context: int,
) -> dict[str, Any]:
    """What mlx-lm reads as `config.json`. Its generation stops at every id of `eos_token_id`."""
    return {
        **model_keys(architecture, context),
        "bos_token_id": architecture.bos_token_id,
        "eos_token_id": list(stop_token_ids),
        "pad_token_id": architecture.pad_token_id,
        "hidden_size": architecture.hidden_size,
        "num_attention_heads": architecture.attention.heads,
        "num_hidden_layers": architecture.layers,
        "num_key_value_heads": architecture.attention.kv_heads,
        "vocab_size": architecture.vocabulary_size,
        "tie_word_embeddings": architecture.tied_embeddings,
        "torch_dtype": kernels.activations,
        "quantization": _quantization(architecture, plans),
    }


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


def quantization_block(
    schemes: Mapping[ModelTensor, Scheme], most: Scheme, modules_of: Callable[[ModelTensor], Iterable[str]]
) -> dict[str, Any]:
    """The block that says how to read the codes: the scheme of most, and each module that has another."""
    block: dict[str, Any] = {"group_size": most.group_size, "bits": most.bits, "mode": "affine"}
    for tensor, scheme in schemes.items():
        if (scheme.bits, scheme.group_size) != (most.bits, most.group_size):
            own = {"group_size": scheme.group_size, "bits": scheme.bits, "mode": "affine"}
            block |= dict.fromkeys(modules_of(tensor), own)
    return block


def _quantization(architecture: Architecture, plans: TensorPlans) -> dict[str, Any]:
    """The block of a decoder, of which most is in its layers."""
    schemes, shapes = quantised_tensors(plans), architecture.tensor_shapes()
    layers = next(scheme for tensor, scheme in schemes.items() if tensor.layer is not None)

    def modules_of(tensor: ModelTensor) -> list[str]:
        return [module_name(name) for name in parts_of(tensor, shapes[tensor], architecture).shapes]

    return quantization_block(schemes, layers, modules_of)


def module_name(name: str) -> str:
    """The module that has a tensor of a file as its weight."""
    return name.removesuffix(WEIGHT_SUFFIX)
