"""The decoder of a Phi as an ONNX graph for onnxruntime-genai: its inputs, its layers, its logits."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import EMBEDDING, FINAL_NORM, HEAD_BIAS, ModelTensor, Role
from edgephi.engines.onnxruntime_genai import TOLD_LENGTH_INPUT
from edgephi.export.onnx.attention import attended, is_told_length, sequence_values
from edgephi.export.onnx.feed_forward import fed_forward
from edgephi.export.onnx.graph_builder import CONTRIB_DOMAIN, GraphBuilder
from edgephi.export.onnx.layout import UNUSED_IDS, OnnxLayout
from edgephi.export.onnx.norms import added_and_normed, normed

_OPSET = 21
_IR_VERSION = 10


def build_graph(
    architecture: Architecture, layout: OnnxLayout, context: int, accuracy_level: int
) -> onnx.ModelProto:
    """The decoder as a graph whose weights are references into the data file.

    Activations, KV cache and logits have the type of the layout's floats.
    """
    graph = GraphBuilder(layout, accuracy_level)
    norm = architecture.norm
    inputs, outputs = _ends(architecture, graph.float_type, told=is_told_length(architecture, context))
    sequence = sequence_values(graph, architecture, context)
    hidden = graph.embedding(EMBEDDING, "input_ids")  # [batch, length, hidden]
    if architecture.embedding_multiplier != 1:
        multiplier = graph.number("embedding_multiplier", architecture.embedding_multiplier)
        hidden = graph.node("Mul", [hidden, multiplier])
    state = normed(graph, norm, ModelTensor(Role.ATTENTION_NORM, 0), hidden)
    for layer in range(architecture.layers):
        mixed = attended(graph, architecture, layer, state, sequence=sequence, context=context)
        before = ModelTensor(Role.FEED_FORWARD_NORM, layer)
        state, hidden = added_and_normed(graph, norm, before, hidden, mixed)
        fed = fed_forward(graph, architecture, layer, state)
        last = layer + 1 == architecture.layers
        following = FINAL_NORM if last else ModelTensor(Role.ATTENTION_NORM, layer + 1)
        state, hidden = added_and_normed(graph, norm, following, hidden, fed)
    _add_logits(graph, architecture, state)
    return helper.make_model(
        helper.make_graph(graph.nodes, "phi3", inputs, outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(CONTRIB_DOMAIN, 1)],
        producer_name="edgephi",
        ir_version=_IR_VERSION,
    )


def _add_logits(graph: GraphBuilder, architecture: Architecture, state: str) -> None:
    """The logits, from the last norm; those of ids that belong to no token are never the largest."""
    if architecture.logits_multiplier != 1:
        multiplier = graph.number("logits_multiplier", architecture.logits_multiplier)
        state = graph.node("Mul", [state, multiplier])
    bias = HEAD_BIAS if architecture.head_bias else None
    if not architecture.unused_token_ids:
        graph.matmul(architecture.head, state, bias=bias, output="logits")
        return
    words = graph.matmul(architecture.head, state, bias=bias)
    lowest = graph.number("lowest", float(np.finfo(graph.numpy_type).min))
    graph.add("Where", [graph.table(UNUSED_IDS), lowest, words], ["logits"])


def _ends(
    architecture: Architecture, floats: int, *, told: bool
) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    """The inputs and outputs of the graph, by the names that the engine's configuration gives."""
    attention = architecture.attention
    cache: list[str | int] = ["batch", attention.kv_heads, "past_length", attention.head_size]
    inputs = [
        _value("input_ids", TensorProto.INT64, ["batch", "length"]),
        _value("attention_mask", TensorProto.INT64, ["batch", "total_length"]),
    ]
    if told:
        inputs.append(_value(TOLD_LENGTH_INPUT, TensorProto.INT64, [1]))
    outputs = [_value("logits", floats, ["batch", "length", architecture.vocabulary_size])]
    for layer in range(architecture.layers):
        for part in ("key", "value"):
            inputs.append(_value(f"past_key_values.{layer}.{part}", floats, cache))
            present: list[str | int] = [*cache[:2], "total_length", cache[3]]
            outputs.append(_value(f"present.{layer}.{part}", floats, present))
    return inputs, outputs


def _value(name: str, kind: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
