"""`genai_config.json`: how onnxruntime-genai runs our graph. The engine's src/config.cpp reads the keys."""

from dataclasses import dataclass
from typing import Any

from edgephi.checkpoint.architecture import Architecture
from edgephi.export.onnx.images.ends import EMBEDDINGS
from edgephi.export.onnx.images.pipeline import image_pipeline

_CHUNK_TOKENS = 512
"""Prompt tokens that others than edgephi let the engine compute at once; edgephi gives it fewer on a CPU."""


@dataclass(frozen=True)
class LongType:
    """A type of models for which the engine changes LongRoPE's factors past so many tokens."""

    name: str
    switches_at: int


_LONG_TYPES = {"phimoe": LongType("phimoe", 4096), "phi3small": LongType("phi3small", 8192)}
"""By the checkpoint's own type; fixed in the engine's src/generators.cpp."""
_OTHERS = LongType("phi3", 4096)
_SEEING_TYPE = "phi3v"

_PROVIDER_OPTIONS: dict[str, dict[str, str]] = {
    # A captured graph needs every node on the GPU and fixed shapes; lengths here are computed on the CPU.
    "cuda": {"enable_cuda_graph": "0"},
}


def long_type(architecture: Architecture) -> LongType:
    """The engine's type for a model whose context passes LongRoPE's original one."""
    return _LONG_TYPES.get(architecture.model_type, _OTHERS)


def genai_config(
    architecture: Architecture,
    stop_token_ids: tuple[int, ...],
    context: int,
    *,
    graph_file: str,
    provider: str,
) -> dict[str, Any]:
    """The configuration that `onnxruntime_genai.Model` reads beside the graph.

    Without a provider in it the engine takes the CPU, so that one is never named.
    """
    search: dict[str, Any] = {
        "do_sample": False,
        "max_length": context,
        "min_length": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": True,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
    }
    if architecture.attention.rotary.uses_long_factors(context):
        # A model of this type is prefilled again when its answer passes so many tokens, as LongRoPE needs.
        # A prompt must stay whole: in chunks it would begin with the short factors and end with the long.
        kind = long_type(architecture).name
    else:
        # The same decoder, without that second prefill.
        kind = "llama"
        search["chunk_size"] = _CHUNK_TOKENS
    pad = architecture.pad_token_id
    providers = [] if provider == "cpu" else [{provider: _PROVIDER_OPTIONS.get(provider, {})}]
    session_options = {"log_id": "onnxruntime-genai", "provider_options": providers}
    first_input, pipeline = "input_ids", {}
    if architecture.image_encoder is not None:
        kind, first_input = _SEEING_TYPE, EMBEDDINGS
        pipeline = image_pipeline(session_options)
        # Of this type the engine does not change LongRoPE's factors on the way, and takes a prompt whole.
        search.pop("chunk_size", None)
        if architecture.attention.rotary.uses_long_factors(context):
            search["max_length"] = architecture.attention.rotary.original_context
    return {
        "model": {
            "type": kind,
            **pipeline,
            "bos_token_id": architecture.bos_token_id,
            "eos_token_id": list(stop_token_ids),
            "pad_token_id": pad if pad is not None else stop_token_ids[0],
            "vocab_size": architecture.vocabulary_size,
            "context_length": context,
            "decoder": {
                "filename": graph_file,
                "session_options": session_options,
                "head_size": architecture.attention.head_size,
                "hidden_size": architecture.hidden_size,
                "num_attention_heads": architecture.attention.heads,
                "num_hidden_layers": architecture.layers,
                "num_key_value_heads": architecture.attention.kv_heads,
                "inputs": {
                    first_input: first_input,
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": search,
    }
