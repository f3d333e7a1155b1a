"""`LlamaForCausalLM`, as the family's models are published too: query, key, value, gate and up apart.

Side by side in one matrix they are Phi-3's projections, and the model is the same function. What of Llama's
options is no Phi-3's is refused where Phi-3's are read.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.config_keys import HINT_SUPPORTED, ConfigKeys
from edgephi.checkpoint.family import phi3
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.checkpoint.weights.source import Source
from edgephi.errors import NotSupportedError

# What transformers takes where a config says nothing and a Phi-3's would mean something else.
_DEFAULTS = {"rms_norm_eps": 1e-6}
PARTS = phi3.PARTS

_FUSED = (Role.QUERY_KEY_VALUE, Role.GATE_UP)


def read(config: ConfigKeys, generation: ConfigKeys) -> Architecture:
    """The architecture that the two files describe; see `phi3.read`."""
    # Some configs name a window that Llama's code does not look at.
    return read_with_defaults("llama", {**config.data, "sliding_window": None}, _DEFAULTS, config, generation)


def read_with_defaults(
    model_type: str,
    data: Mapping[str, Any],
    defaults: Mapping[str, Any],
    config: ConfigKeys,
    generation: ConfigKeys,
) -> Architecture:
    """The architecture of a model with Llama's names, whose config says `data`; `config` names the file."""
    keys = dataclasses.replace(config, data={**defaults, **data})
    architecture = dataclasses.replace(phi3.read(keys, generation), model_type=model_type)
    attention = architecture.attention
    if attention.rotary.size != attention.head_size:
        raise NotSupportedError(
            f"{config.where}: partial_rotary_factor: expected all {attention.head_size} dimensions of a head "
            f"of {model_type!r} rotated, found {attention.rotary.size}",
            hint=HINT_SUPPORTED,
        )
    return architecture


def sources(architecture: Architecture) -> dict[ModelTensor, tuple[Source, ...]]:
    """Where a checkpoint holds each tensor: projections of one input apart, all else as Phi-3's do."""
    whole = phi3.sources(architecture)
    return {
        tensor: tuple(_parts(architecture, tensor)) if tensor.role in _FUSED else own
        for tensor, own in whole.items()
    }


def _parts(architecture: Architecture, tensor: ModelTensor) -> Iterator[Source]:
    for module, (role, into) in phi3.projections(architecture).items():
        if role is tensor.role:
            yield Source(f"model.layers.{tensor.layer}.{module}.weight", range(len(into)), into)


def other_modules(architecture: Architecture) -> dict[str, tuple[ModelTensor, range]]:
    """Phi-3's modules, on which adapters for the same model are trained too."""
    return {
        source.tensor.removesuffix(".weight"): (tensor, source.into)
        for tensor, (source,) in phi3.sources(architecture).items()
        if tensor.role in _FUSED
    }


def is_known(name: str, architecture: Architecture) -> bool:
    """Whether a tensor that is no source says nothing new: RoPE tables, the second name of a tied head."""
    return phi3.is_known(name, architecture)
