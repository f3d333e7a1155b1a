"""`MistralForCausalLM`, as Unsloth publishes Phi-3-mini: Llama's names, with a sliding window."""

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.config_keys import LARGEST_DEPTH, ConfigKeys
from edgephi.checkpoint.family import llama
from edgephi.checkpoint.roles import ModelTensor
from edgephi.checkpoint.weights.source import Source

PARTS = llama.PARTS

# What transformers takes where a config says nothing and a Phi-3's would mean something else.
_FULL, _SLIDING = "full_attention", "sliding_attention"
_DEFAULTS = {"rms_norm_eps": 1e-6, "num_key_value_heads": 8, "sliding_window": 4096}


def read(config: ConfigKeys, generation: ConfigKeys) -> Architecture:
    """The architecture that the two files describe; see `phi3.read`."""
    data = config.data if _has_window(config) else {**config.data, "sliding_window": None}
    return llama.read_with_defaults("mistral", data, _DEFAULTS, config, generation)


def _has_window(config: ConfigKeys) -> bool:
    """Whether its layers look through a window: transformers takes one with `layer_types` as a Ministral."""
    types = config.data.get("layer_types")
    if types is None:
        return True
    layers = config.whole("num_hidden_layers", largest=LARGEST_DEPTH)
    if not isinstance(types, list) or len(types) != layers or not set(types) <= {_FULL, _SLIDING}:
        config.fail("layer_types", f"{_FULL} or {_SLIDING} for each of {layers} layers", types)
    if len(set(types)) > 1:
        config.refuse("layer_types", [_FULL])
    return bool(types[0] == _SLIDING)


def sources(architecture: Architecture) -> dict[ModelTensor, tuple[Source, ...]]:
    """Where a checkpoint holds each tensor: as a Llama's does."""
    return llama.sources(architecture)


def other_modules(architecture: Architecture) -> dict[str, tuple[ModelTensor, range]]:
    """Phi-3's modules, on which adapters for the same model are trained too."""
    return llama.other_modules(architecture)


def is_known(name: str, architecture: Architecture) -> bool:
    """Whether a tensor that is no source says nothing new: RoPE tables, the second name of a tied head."""
    return llama.is_known(name, architecture)
