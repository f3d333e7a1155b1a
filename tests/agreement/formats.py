"""The dequantised weights of an artifact, read with its format's own library and nothing of ours.

Names are those of the checkpoint.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.export.oracle import Floats, tensors_of

_LLAMA_CPP_NAMES = {
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


def weights_of(target: str, folder: Path) -> dict[str, Floats]:
    """The weights of the artifact in `folder`, float32, under the checkpoint's names."""
    readers: dict[str, Callable[[Path], dict[str, Floats]]] = {
        "cpu": tensors_of,
        "cuda": tensors_of,
        "gguf": _gguf,
        "mlx": _mlx,
        "openvino": _openvino,
    }
    return readers[target](folder)


def _gguf(folder: Path) -> dict[str, Floats]:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    weights = {}
    for tensor in GGUFReader(folder / "model.gguf").tensors:
        block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor.name)
        if block:
            name = f"model.layers.{block[1]}.{_LLAMA_CPP_NAMES[block[2]]}.weight"
        else:
            name = f"{_LLAMA_CPP_NAMES[tensor.name.removesuffix('.weight')]}.weight"
        shape = tuple(int(size) for size in reversed(tensor.shape))
        weights[name] = dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype(np.float32)
    return weights


def _mlx(folder: Path) -> dict[str, Floats]:
    import json

    import mlx.core as mx

    stored: Any = mx.load(str(folder / "model.safetensors"))
    quantization = json.loads((folder / "config.json").read_text())["quantization"]
    weights = {}
    for name, array in stored.items():
        prefix, _, part = name.rpartition(".")
        if part != "weight":
            continue
        whole = array
        if f"{prefix}.scales" in stored:
            own = quantization.get(prefix, quantization)
            whole = mx.dequantize(
                array,
                stored[f"{prefix}.scales"].astype(mx.float32),
                stored[f"{prefix}.biases"].astype(mx.float32),
                group_size=own["group_size"],
                bits=own["bits"],
            )
        weights[name] = np.array(whole.astype(mx.float32))
    return weights


def _openvino(folder: Path) -> dict[str, Floats]:
    import openvino
    from openvino import opset14

    core = openvino.Core()
    constants = {
        node.get_friendly_name(): node
        for node in core.read_model(folder / "openvino_model.xml").get_ordered_ops()
        if node.get_type_name() == "Constant"
    }

    def numbers(name: str) -> Floats:
        """A constant as OpenVINO unpacks it."""
        model = openvino.Model([opset14.convert(constants[name], "f32")], [])
        (value,) = core.compile_model(model, "CPU")().values()
        return np.array(value, dtype=np.float32)

    weights = {}
    for name in constants:
        label, _, part = name.rpartition("/")
        if part == "codes":
            codes, scales = numbers(name), numbers(f"{label}/scales")
            weights[label] = ((codes - numbers(f"{label}/zero_point")) * scales).reshape(len(codes), -1)
        elif name.endswith("norm.weight"):
            weights[name] = numbers(name)
    return weights
