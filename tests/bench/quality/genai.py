"""onnxruntime-genai: the artifacts that its builder writes, read back with the `onnx` library.

Weights of MatMulNBits are `(code - zero point) * scale`, the middle code where there are no zero points.
Source: onnxruntime's docs/ContribOperators.md.
"""

import functools
import shutil
import sys

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.bench import measure
from tests.bench.quality.harness import EMBEDDING, HEAD, Floats
from tests.bench.quality.quantised import Quantised, Subject, Way

_OPTIONS = {
    "default g32": ("block_size=32",),
    "rtn_last g32": ("block_size=32", "algo_config=rtn_last"),
    "k_quant_last g32": ("block_size=32", "algo_config=k_quant_last"),
    "k_quant_mixed g32": ("block_size=32", "algo_config=k_quant_mixed"),
}
_PROJECTIONS = {
    "self_attn.qkv_proj.weight": ("attn/qkv_proj", "attn/q_proj attn/k_proj attn/v_proj"),
    "self_attn.o_proj.weight": ("attn/o_proj", ""),
    "mlp.gate_up_proj.weight": ("mlp/gate_up_proj", "mlp/gate_proj mlp/up_proj"),
    "mlp.down_proj.weight": ("mlp/down_proj", ""),
}


def ways() -> list[Way]:
    """The builder's int4, by each of its methods. It leaves the embedding in floats."""
    return [
        Way(f"genai builder {name}", functools.partial(_quantise, options=options), "onnxruntime-genai")
        for name, options in _OPTIONS.items()
    ]


def _quantise(subject: Subject, options: tuple[str, ...]) -> Quantised:
    folder, cache = subject.scratch / "builder", subject.scratch / "builder-cache"
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "cpu"]
    command += ["-i", str(subject.checkpoint), "-o", str(folder), "-c", str(cache)]
    cost = measure.run([*command, "--extra_options", *options], log=subject.scratch / "builder.log")
    model = onnx.load(folder / "model.onnx")
    nodes = {_matrix(node.name): node for node in model.graph.node if node.op_type == "MatMulNBits"}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weights: dict[str, Floats] = dict(subject.original)
    bits = {EMBEDDING: 16.0}
    for name in [*subject.matrices, HEAD]:
        found = [_dequantised(nodes[each], tensors) for each in _parts(name, set(nodes))]
        weights[name] = np.concatenate([part for part, _ in found])
        bits[name] = sum(part.size * own for part, own in found) / weights[name].size
    shutil.rmtree(folder)
    return Quantised(weights, *subject.bits(bits), cost.seconds, cost.peak_bytes)


def _matrix(node: str) -> str:
    """The name of a matrix product without what quantisers append to it."""
    return node.partition("/MatMul")[0].removeprefix("/")


def _parts(name: str, nodes: set[str]) -> list[str]:
    """The builder's names of the matrices that a matrix is made of, from the top."""
    if name == HEAD:
        return ["lm_head"]
    prefix, _, layer, projection = name.split(".", 3)
    whole, parts = _PROJECTIONS[projection]
    place = f"{prefix}/layers.{layer}"
    return (
        [f"{place}/{whole}"] if f"{place}/{whole}" in nodes else [f"{place}/{part}" for part in parts.split()]
    )


def _dequantised(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> tuple[Floats, float]:
    """A matrix [rows, columns] and its bits a weight, scales counted with 16."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    bits, size, columns, rows = (attributes[key] for key in ("bits", "block_size", "K", "N"))
    packed, scales, *more = (numpy_helper.to_array(tensors[each]) for each in node.input[1:] if each)
    blocks = -(-columns // size)
    codes = _integers(packed.reshape(-1), bits).reshape(rows, blocks, size).astype(np.float32)
    middle: NDArray[np.float32] | float = float(1 << (bits - 1))
    if more:
        zero_points = _integers(more[0].reshape(-1), bits).reshape(rows, -1)[:, :blocks]
        middle = zero_points.astype(np.float32)[:, :, None]
    restored = (codes - middle) * scales.astype(np.float32).reshape(rows, blocks, 1)
    overhead = 16 + (bits if more else 0)
    return restored.reshape(rows, -1)[:, :columns], bits + overhead / size


def _integers(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Numbers of 4 bits, the lower one first, or of 8."""
    return packed if bits == 8 else np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)
