"""llama.cpp as it is, on a GGUF file as its converter writes it, in float32.

`Change` makes right one by one what is wrong: so it shows how much each of it costs.

Source: `PhiMoeModel` and `Phi3MiniModel` of llama.cpp's `conversion/phi.py`.
"""

import ctypes
import json
import math
import os
import tempfile
from collections.abc import Sequence
from enum import Flag, auto
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from edgephi.runtime.engines.llama_cpp.context import LlamaContext, refuse
from edgephi.runtime.engines.llama_cpp.library import READ_INTO_MEMORY, collected_errors, load_library
from tests.bench.other_tools.asked import Floats, Model
from tests.bench.other_tools.original import Tensors

_LONGEST = 2048
_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_PROJECTIONS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
_EXPERTS = {"w1": "gate", "w2": "down", "w3": "up"}


class Change(Flag):
    """What differs from a file that llama.cpp's converter writes.

    `MAGNITUDE`: LongRoPE's magnitude is the config's, not that of a formula. `CENTRED`: all that is written
    into the residual stream has a mean of zero, where RMS norm is layer norm.
    """

    NONE = 0
    MAGNITUDE = auto()
    CENTRED = auto()


def llama_cpp_model(checkpoint: Path, tensors: Tensors, change: Change = Change.NONE) -> Model:
    """llama.cpp's model of a `phimoe` checkpoint with these tensors."""
    config = json.loads((checkpoint / "config.json").read_bytes())
    if Change.CENTRED in change:
        tensors = _centred(tensors)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.gguf"
        _write(file, config, tensors, change)
        library, model = _load(file)
    rows: int = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
    context = LlamaContext(library, model, tokens=_LONGEST, window=0, batch=_LONGEST, whole=True)

    def compute(tokens: Sequence[int]) -> Floats:
        context.keep(0)
        context.compute(list(tokens), 0, all_logits=True)
        found = np.empty((len(tokens), rows), np.float32)
        for row in range(len(tokens)):
            context.copy_logits(row, found[row])
        return found

    return compute


def _load(file: Path) -> tuple[ctypes.CDLL, int]:
    library = load_library()
    parameters = library.llama_model_default_params()
    parameters.load_mode, parameters.n_gpu_layers = READ_INTO_MEMORY, 0
    with collected_errors(library) as errors:
        model: int | None = library.llama_model_load_from_file(os.fsencode(file), parameters)
    if not model:
        refuse("expected llama.cpp to read the file", errors)
    return library, model


def _write(file: Path, config: dict[str, Any], tensors: Tensors, change: Change) -> None:
    writer = gguf.GGUFWriter(file, "phimoe")
    heads, scaling = config["num_attention_heads"], config["rope_scaling"]
    original = config["original_max_position_embeddings"]
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_sliding_window(config["sliding_window"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_count(config["num_local_experts"])
    growth = config["max_position_embeddings"] / original
    magnitude = math.sqrt(1 + math.log(growth) / math.log(original)) if growth > 1 else 1.0
    if Change.MAGNITUDE in change:
        magnitude = scaling["short_mscale"]
    writer.add_rope_scaling_attn_factors(magnitude)
    writer.add_tokenizer_model("no_vocab")
    for name, tensor in _named(config, tensors).items():
        writer.add_tensor(name, np.ascontiguousarray(tensor, np.float32))
    for length in ("long", "short"):
        writer.add_tensor(f"rope_factors_{length}.weight", np.array(scaling[f"{length}_factor"], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _named(config: dict[str, Any], tensors: Tensors) -> Tensors:
    """The tensors under llama.cpp's names."""
    named = {"token_embd.weight": tensors["model.embed_tokens.weight"]}
    for part in ("weight", "bias"):
        named[f"output_norm.{part}"] = tensors[f"model.norm.{part}"]
        named[f"output.{part}"] = tensors[f"lm_head.{part}"]
    for layer in range(config["num_hidden_layers"]):
        here, there = f"model.layers.{layer}.", f"blk.{layer}."
        for ours, theirs in {**_NORMS, **_PROJECTIONS}.items():
            for part in ("weight", "bias"):
                named[f"{there}{theirs}.{part}"] = tensors[f"{here}{ours}.{part}"]
        experts = here + "block_sparse_moe."
        named[there + "ffn_gate_inp.weight"] = tensors[experts + "gate.weight"]
        for ours, theirs in _EXPERTS.items():
            each = [
                tensors[f"{experts}experts.{number}.{ours}.weight"]
                for number in range(config["num_local_experts"])
            ]
            named[f"{there}ffn_{theirs}_exps.weight"] = np.stack(each)
    return named


def _centred(tensors: Tensors) -> Tensors:
    """The same function for layer norms, in which RMS norm is one."""
    centred = {}
    for name, tensor in tensors.items():
        if name.endswith("embed_tokens.weight"):
            centred[name] = tensor - tensor.mean(axis=1, keepdims=True)
        elif name.endswith((".o_proj.weight", ".o_proj.bias", ".w2.weight")):
            centred[name] = tensor - tensor.mean(axis=0, keepdims=True)
        else:
            centred[name] = tensor
    return centred
