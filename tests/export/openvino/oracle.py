"""OpenVINO on an artifact, opened as it is, and the weights as OpenVINO's own reader finds them.

Nothing here goes through our own reading: the graph is walked operator by operator in the decoder's order,
and OpenVINO itself unpacks the constants, so that a matrix in the wrong place or a nibble in the wrong half
shows.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino_genai

from edgephi.runtime.engines.openvino_genai.adapter import _import_engine
from tests.export.oracle import Floats

__all__ = ["openvino_genai"]

openvino = _import_engine()
MODEL = "openvino_model.xml"
PARTS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


@lru_cache(maxsize=4)
def _read(folder: Path) -> dict[str, Floats]:
    core = openvino.Core()
    model = core.read_model(folder / MODEL)
    constants = [node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]
    operators = openvino.opset13
    # OpenVINO unpacks them, all at once.
    unpacked = openvino.Model([operators.convert(each, openvino.Type.f32) for each in constants], [])
    values = core.compile_model(unpacked, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})().values()
    numbers = {
        constant.get_friendly_name(): np.array(value, dtype=np.float32)
        for constant, value in zip(constants, values, strict=True)
    }

    embeddings: list[Floats] = []
    matrices: list[Floats] = []
    norms: list[Floats] = []
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Gather" and _is_matrix(node.input_value(0).get_node()):
            embeddings.append(_decompress(numbers, node.input_value(0).get_node()))
        elif kind == "MatMul" and _is_matrix(node.input_value(1).get_node()):
            assert node.get_attributes()["transpose_b"]
            matrices.append(_decompress(numbers, node.input_value(1).get_node()))
        elif kind == "Multiply" and _is_vector(node.input_value(0).get_node()):
            norms.append(numbers[node.input_value(0).get_node().get_friendly_name()])
    layers = len(matrices) // len(PARTS)
    assert len(embeddings) == 1
    assert len(matrices) == layers * len(PARTS) + 1
    assert len(norms) == 2 * layers + 1
    tensors = {"model.embed_tokens.weight": embeddings[0]}
    for layer in range(layers):
        for place, part in enumerate(PARTS):
            tensors[f"model.layers.{layer}.{part}.weight"] = matrices[layer * len(PARTS) + place]
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = norms[2 * layer]
        tensors[f"model.layers.{layer}.post_attention_layernorm.weight"] = norms[2 * layer + 1]
    tensors["model.norm.weight"] = norms[-1]
    tensors["lm_head.weight"] = matrices[-1]
    return tensors


def tensors_of(folder: Path) -> dict[str, Floats]:
    """The weights of the artifact by the checkpoint's names, dequantised in float32."""
    return dict(_read(folder))


def _is_matrix(node: Any) -> bool:
    """Whether this is the last step of a decompression: a type change of a reshaped constant."""
    return bool(
        node.get_type_name() == "Convert" and node.input_value(0).get_node().get_type_name() == "Reshape"
    )


def _is_vector(node: Any) -> bool:
    return node.get_type_name() == "Constant" and len(node.get_output_shape(0)) == 1


def _decompress(numbers: dict[str, Floats], node: Any) -> Floats:
    reshape = node.input_value(0).get_node()
    multiply = reshape.input_value(0).get_node()
    subtract, scales = (multiply.input_value(place).get_node() for place in (0, 1))
    codes, zero_points = (
        subtract.input_value(place).get_node().input_value(0).get_node() for place in (0, 1)
    )
    assert scales.get_element_type() == openvino.Type.f16
    assert codes.get_element_type() in (openvino.Type.u4, openvino.Type.u8)
    # In float32: a code is exact there, and so is its product with a float16.
    code, zero_point, scale = (numbers[each.get_friendly_name()] for each in (codes, zero_points, scales))
    return ((code - zero_point) * scale).reshape(tuple(node.get_output_shape(0)))


ON_ANY_CPU = {"INFERENCE_PRECISION_HINT": "f32"}
"""Arithmetic that every CPU has: one with units for bfloat16 uses them unless told otherwise.

No artifact can ask for it; our runtime does. For int8 see the artifact's own option.
"""


class Engine:
    """The graph on OpenVINO's CPU plugin, nothing of ours around it; see ON_ANY_CPU."""

    def __init__(self, folder: Path, **options: str) -> None:
        self.compiled = openvino.Core().compile_model(folder / MODEL, "CPU", ON_ANY_CPU | options)
        self._request = self.compiled.create_infer_request()

    def prefill(self, ids: list[int], *, step: int | None = None) -> Floats:
        """Logits of every token, `step` tokens at a time, or all at once."""
        self._request.reset_state()
        rows = []
        for start in range(0, len(ids), step or len(ids)):
            piece = ids[start : start + (step or len(ids))]
            end = start + len(piece)
            inputs = {
                "input_ids": np.array([piece]),
                "attention_mask": np.ones((1, end), np.int64),
                "position_ids": np.arange(start, end)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
            rows.append(self._request.infer(inputs)["logits"][0].copy())
        return np.concatenate(rows)

    def layers(self) -> list[tuple[str, str, list[str]]]:
        """What really runs: kind, precision and types of inputs of every layer of the compiled graph."""
        found = []
        for node in self.compiled.get_runtime_model().get_ordered_ops():
            facts = node.get_rt_info()
            types = [each.get_element_type().get_type_name() for each in node.inputs()]
            found.append((facts["layerType"].astype(str), facts["runtimePrecision"].astype(str), types))
        return found


def pipeline_answer(folder: Path, prompt: list[int], count: int, **options: str) -> list[int]:
    """The `count` tokens that `LLMPipeline` finds most likely after `prompt`; stops ignored."""
    pipeline = openvino_genai.LLMPipeline(str(folder), "CPU", **(ON_ANY_CPU | options))
    config = openvino_genai.GenerationConfig(max_new_tokens=count, ignore_eos=True, do_sample=False)
    found = pipeline.generate(openvino.Tensor(np.array([prompt], np.int64)), config)
    return [int(token) for token in found.tokens[0]]
