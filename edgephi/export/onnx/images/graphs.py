"""The graphs that see: one of tiles, which edgephi's runtime drives, one of images for the engine's own."""

import onnx
from onnx import TensorProto

from edgephi.checkpoint.images.image_encoder import COLOURS, ImageEncoder
from edgephi.engines.facts.image_graphs import IMAGE_DATA_FILE, PIXELS_INPUT, ROWS_OUTPUT
from edgephi.export.onnx.graph_builder import GraphBuilder, as_model, value
from edgephi.export.onnx.images.encoder_graph import encoded_rows
from edgephi.export.onnx.images.ends import FEATURES, IMAGE_SIZES
from edgephi.export.onnx.images.token_order import token_rows
from edgephi.export.onnx.layout import OnnxLayout


def tile_graph(encoder: ImageEncoder, layout: OnnxLayout, accuracy_level: int) -> onnx.ModelProto:
    """Pixels [tiles, 3, tile, tile] become float32 rows: the two separators' and then those of each tile."""
    graph = GraphBuilder(layout, accuracy_level, data_file=IMAGE_DATA_FILE)
    rows = encoded_rows(graph, encoder, PIXELS_INPUT)
    graph.add("Cast", [rows], [ROWS_OUTPUT], to=TensorProto.FLOAT)
    pixels = value(PIXELS_INPUT, TensorProto.FLOAT, ["tiles", COLOURS, encoder.tile, encoder.tile])
    return as_model(
        graph, [pixels], [value(ROWS_OUTPUT, TensorProto.FLOAT, ["rows", encoder.projected_size])]
    )


def vision_graph(encoder: ImageEncoder, layout: OnnxLayout, accuracy_level: int) -> onnx.ModelProto:
    """Pixels [images, tiles, 3, tile, tile] and their sizes become the rows of all tokens, in their order.

    The rows have the type of the layout's floats, as the decoder wants them.
    """
    graph = GraphBuilder(layout, accuracy_level, data_file=IMAGE_DATA_FILE)
    shape = graph.integers("as_tiles", [-1, COLOURS, encoder.tile, encoder.tile])
    rows = encoded_rows(graph, encoder, graph.node("Reshape", [PIXELS_INPUT, shape]))
    tiles = graph.node("Shape", [PIXELS_INPUT], start=1, end=2)
    order = token_rows(graph, encoder.facts, IMAGE_SIZES, tiles)
    graph.add("Gather", [rows, order], [FEATURES], axis=0)
    inputs = [
        value(PIXELS_INPUT, TensorProto.FLOAT, ["images", "tiles", COLOURS, encoder.tile, encoder.tile]),
        value(IMAGE_SIZES, TensorProto.INT64, ["images", 2]),
    ]
    features = value(FEATURES, graph.float_type, ["tokens", encoder.projected_size])
    return as_model(graph, inputs, [features])
