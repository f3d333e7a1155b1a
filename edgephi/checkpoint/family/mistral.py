"""`MistralForCausalLM`, as Unsloth publishes Phi-3-mini: Llama's names, with a sliding window."""

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.config_keys import ConfigKeys
from edgephi.checkpoint.family import llama
from edgephi.checkpoint.roles import ModelTensor
from edgephi.checkpoint.weights.source import Source

# What transformers takes where a config says nothing and a Phi-3's would mean something else.
_DEFAULTS = {"rms_norm_eps": 1e-6, "num_key_value_heads": 8, "sliding_window": 4096}


def read(config: ConfigKeys, generation: ConfigKeys) -> Architecture:
    """The architecture that the two files describe; see `phi3.read`."""
    return llama.read_with_defaults("mistral", config.data, _DEFAULTS, config, generation)


def sources(architecture: Architecture) -> dict[ModelTensor, tuple[Source, ...]]:
    """Where a checkpoint holds each tensor: as a Llama's does."""
    return llama.sources(architecture)


def other_modules(architecture: Architecture) -> dict[str, tuple[ModelTensor, range]]:
    """Phi-3's modules, on which adapters for the same model are trained too."""
    return llama.other_modules(architecture)


def is_known(name: str, architecture: Architecture) -> bool:
    """Whether a tensor that is no source says nothing new: RoPE tables, the second name of a tied head."""
    return llama.is_known(name, architecture)
