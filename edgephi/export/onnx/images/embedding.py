"""What enters the first layer: the embeddings of words and, in the place of some, rows of images."""

import onnx
from onnx import TensorProto

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import EMBEDDING
from edgephi.export.onnx.graph_builder import GraphBuilder, as_model, value
from edgephi.export.onnx.images.ends import EMBEDDINGS, FEATURES
from edgephi.export.onnx.layout import OnnxLayout


def embedded_words(graph: GraphBuilder, architecture: Architecture, ids: str) -> str:
    """The embeddings of token ids, [batch, length, hidden]."""
    words = graph.embedding(EMBEDDING, ids)
    if architecture.embedding_multiplier == 1:
        return words
    return graph.node("Mul", [words, graph.number("embedding_multiplier", architecture.embedding_multiplier)])


def embedded_with_rows(graph: GraphBuilder, architecture: Architecture, ids: str, rows: str) -> str:
    """The embeddings of ids from 0 on; -1 is the first of some float32 rows, -2 the second."""
    if graph.float_type != TensorProto.FLOAT:
        rows = graph.node("Cast", [rows], to=graph.float_type)
    numbers = graph.node("Sub", [graph.integers("minus_one", -1), ids])
    return _joined(graph, architecture, ids, rows, numbers)


def embedding_graph(architecture: Architecture, layout: OnnxLayout) -> onnx.ModelProto:
    """Ids, and the rows of images in their order, become the decoder's input: for the engine's own pipeline.

    There all tokens of an image have the same id, so the first token below 0 is the first row, and so on.
    """
    graph = GraphBuilder(layout, accuracy_level=0)
    hidden = architecture.hidden_size
    # After the prompt the engine gives no rows at all, and nothing could be looked up among them.
    shape = graph.integers("one_row", [1, hidden])
    filler = graph.node("Expand", [graph.number("nothing", 0.0), shape])
    rows = graph.node("Concat", [FEATURES, filler], axis=0)
    seen = graph.node("Cast", [_is_image(graph, "input_ids")], to=TensorProto.INT64)
    counted = graph.node("CumSum", [seen, graph.integers("length_axis", 1)])
    numbers = graph.node("Sub", [counted, graph.integers("one", 1)])
    graph.add("Identity", [_joined(graph, architecture, "input_ids", rows, numbers)], [EMBEDDINGS])
    return as_model(
        graph,
        [
            value("input_ids", TensorProto.INT64, ["batch", "length"]),
            value(FEATURES, graph.float_type, ["tokens", hidden]),
        ],
        [value(EMBEDDINGS, graph.float_type, ["batch", "length", hidden])],
    )


def _joined(graph: GraphBuilder, architecture: Architecture, ids: str, rows: str, numbers: str) -> str:
    """Words for ids from 0 on, and for those below 0 the rows of these numbers."""
    zero = graph.integers("no_id", 0)
    words = embedded_words(graph, architecture, graph.node("Max", [ids, zero]))
    # Tokens that are words have numbers too, and what is looked up for them is not used.
    seen = graph.node("Gather", [rows, graph.node("Max", [numbers, zero])], axis=0)
    is_image = graph.node("Unsqueeze", [_is_image(graph, ids), graph.integers("hidden_axis", [2])])
    return graph.node("Where", [is_image, seen, words])


def _is_image(graph: GraphBuilder, ids: str) -> str:
    return graph.node("Less", [ids, graph.integers("no_id", 0)])
