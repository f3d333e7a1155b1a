"""The dequantised weights of a GGUF artifact, read with llama.cpp's own library and nothing of ours.

Names are those of the checkpoint.
"""

import re
from pathlib import Path

import numpy as np

from tests.export.oracle import Floats

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}


def weights_of(folder: Path) -> dict[str, Floats]:
    """The weights of the artifact in `folder`, float32, under the checkpoint\'s names."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    weights = {}
    for tensor in GGUFReader(folder / "model.gguf").tensors:
        block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor.name)
        if block:
            name = f"model.layers.{block[1]}.{_NAMES[block[2]]}.weight"
        else:
            name = f"{_NAMES[tensor.name.removesuffix('.weight')]}.weight"
        shape = tuple(int(size) for size in reversed(tensor.shape))
        weights[name] = dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype(np.float32)
    return weights
