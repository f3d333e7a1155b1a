"""The decoder of a Phi as an ONNX graph for onnxruntime-genai: its inputs, its layers, its logits."""

from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import FINAL_NORM, HEAD_BIAS, ModelTensor, Role
from edgephi.engines.onnxruntime_genai import IMAGE_ROWS_INPUT, TOLD_LENGTH_INPUT
from edgephi.export.onnx.attention import attended, is_told_length, sequence_values
from edgephi.export.onnx.feed_forward import fed_forward
from edgephi.export.onnx.graph_builder import GraphBuilder, as_model, value
from edgephi.export.onnx.images.embedding import embedded_with_rows, embedded_words
from edgephi.export.onnx.images.ends import EMBEDDINGS
from edgephi.export.onnx.layout import UNUSED_IDS, OnnxLayout
from edgephi.export.onnx.norms import added_and_normed, normed

Reads = Literal["ids", "ids and image rows", "embeddings"]
"""What a decoder is given: words, words and what stands in the place of some, or all of it looked up."""


def build_graph(
    architecture: Architecture,
    layout: OnnxLayout,
    context: int,
    accuracy_level: int,
    *,
    reads: Reads = "ids",
) -> onnx.ModelProto:
    """The decoder as a graph whose weights are references into the data file.

    Activations, KV cache and logits have the type of the layout's floats.
    """
    graph = GraphBuilder(layout, accuracy_level)
    norm = architecture.norm
    told = reads != "embeddings" and is_told_length(architecture, context)
    inputs, outputs = _ends(architecture, graph.float_type, reads, told=told)
    sequence = sequence_values(graph, architecture, context, told=told)
    hidden = _embedded(graph, architecture, reads)  # [batch, length, hidden]
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
    return as_model(graph, inputs, outputs)


def _embedded(graph: GraphBuilder, architecture: Architecture, reads: Reads) -> str:
    """What goes into the first layer."""
    if reads == "embeddings":
        return EMBEDDINGS
    if reads == "ids":
        return embedded_words(graph, architecture, "input_ids")
    return embedded_with_rows(graph, architecture, "input_ids", IMAGE_ROWS_INPUT)


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
    architecture: Architecture, floats: int, reads: Reads, *, told: bool
) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    """The inputs and outputs of the graph, by the names that the engine's configuration gives."""
    attention = architecture.attention
    cache: list[str | int] = ["batch", attention.kv_heads, "past_length", attention.head_size]
    hidden = architecture.hidden_size
    first = value("input_ids", TensorProto.INT64, ["batch", "length"])
    if reads == "embeddings":
        first = value(EMBEDDINGS, floats, ["batch", "length", hidden])
    inputs = [first, value("attention_mask", TensorProto.INT64, ["batch", "total_length"])]
    if reads == "ids and image rows":
        inputs.append(value(IMAGE_ROWS_INPUT, TensorProto.FLOAT, ["rows", hidden]))
    if told:
        inputs.append(value(TOLD_LENGTH_INPUT, TensorProto.INT64, [1]))
    outputs = [value("logits", floats, ["batch", "length", architecture.vocabulary_size])]
    for layer in range(architecture.layers):
        for part in ("key", "value"):
            inputs.append(value(f"past_key_values.{layer}.{part}", floats, cache))
            present: list[str | int] = [*cache[:2], "total_length", cache[3]]
            outputs.append(value(f"present.{layer}.{part}", floats, present))
    return inputs, outputs
