"""The image encoder of a Phi-3-vision and its projection as a graph: pixels of tiles become rows.

Rows and not tokens: which row each token of an image is, `row_order` of `edgephi.bundle.image_tokens` says.
"""

from onnx import TensorProto

from edgephi.checkpoint.images.image_encoder import ImageEncoder
from edgephi.checkpoint.roles import ModelTensor, Role, bias_of
from edgephi.export.onnx.graph_builder import GraphBuilder

_SLOPE = 1.702  # of quick GELU


def encoded_rows(graph: GraphBuilder, encoder: ImageEncoder, pixels: str) -> str:
    """Rows for the decoder [2 + tiles * side**2, projected size] of float32 pixels [tiles, 3, tile, tile].

    The first two are the end of a line and the separator; those of each tile lie line by line.
    """
    hidden = _embedded(graph, encoder, pixels)
    hidden = _normed(graph, encoder, ModelTensor(Role.IMAGE_FIRST_NORM), hidden)
    for layer in range(encoder.layers):
        hidden = graph.node("Add", [hidden, _attended(graph, encoder, layer, hidden)])
        hidden = graph.node("Add", [hidden, _fed_forward(graph, encoder, layer, hidden)])
    return _projected(graph, _merged(graph, encoder, hidden))


def _embedded(graph: GraphBuilder, encoder: ImageEncoder, pixels: str) -> str:
    """The class token and then the patches of each tile, at their places: [tiles, patches + 1, hidden]."""
    hidden = encoder.hidden_size
    if graph.float_type != TensorProto.FLOAT:
        pixels = graph.node("Cast", [pixels], to=graph.float_type)
    square = [encoder.patch, encoder.patch]
    patches = graph.node(
        "Conv",
        [pixels, graph.plain(ModelTensor(Role.IMAGE_PATCHES))],
        kernel_shape=square,
        strides=square,
    )
    lines = graph.node("Reshape", [patches, graph.integers("patch_lines", [0, hidden, encoder.patches])])
    tokens = graph.node("Transpose", [lines], perm=[0, 2, 1])
    tiles = graph.node("Shape", [pixels], start=0, end=1)
    shape = graph.node("Concat", [tiles, graph.integers("class_shape", [1, hidden])], axis=0)
    first = graph.node("Expand", [graph.plain(ModelTensor(Role.IMAGE_CLASS), (1, 1, hidden)), shape])
    both = graph.node("Concat", [first, tokens], axis=1)
    return graph.node("Add", [both, graph.plain(ModelTensor(Role.IMAGE_POSITIONS))])


def _normed(graph: GraphBuilder, encoder: ImageEncoder, norm: ModelTensor, hidden: str) -> str:
    inputs = [hidden, graph.plain(norm), graph.plain(bias_of(norm))]
    return graph.node("LayerNormalization", inputs, axis=-1, epsilon=encoder.epsilon, stash_type=1)


def _attended(graph: GraphBuilder, encoder: ImageEncoder, layer: int, hidden: str) -> str:
    """What a layer's attention adds: every token sees all tokens of its tile."""
    state = _normed(graph, encoder, ModelTensor(Role.IMAGE_ATTENTION_NORM, layer), hidden)
    together = _product(graph, Role.IMAGE_QUERY_KEY_VALUE, layer, state)
    parts = [f"{together}.{part}" for part in ("query", "key", "value")]
    graph.add("Split", [together], parts, axis=-1, num_outputs=len(parts))
    mixed = graph.node("MultiHeadAttention", parts, num_heads=encoder.heads)
    return _product(graph, Role.IMAGE_ATTENTION_OUTPUT, layer, mixed)


def _fed_forward(graph: GraphBuilder, encoder: ImageEncoder, layer: int, hidden: str) -> str:
    state = _normed(graph, encoder, ModelTensor(Role.IMAGE_FEED_FORWARD_NORM, layer), hidden)
    wide = _product(graph, Role.IMAGE_UP, layer, state)
    return _product(graph, Role.IMAGE_DOWN, layer, graph.node("QuickGelu", [wide], alpha=_SLOPE))


def _merged(graph: GraphBuilder, encoder: ImageEncoder, hidden: str) -> str:
    """Squares of two by two patches as one vector each, after the two separators: [rows, merged size]."""
    side = encoder.facts.side
    last = graph.integers("after_patches", [encoder.patches + 1])
    # Without the class token, which is no part of a picture.
    bounds = [graph.integers("first_patch", [1]), last, graph.integers("patch_axis", [1])]
    patches = graph.node("Slice", [hidden, *bounds])
    squares = graph.integers("squares", [-1, side, 2, side, 2, encoder.hidden_size])
    by_square = graph.node("Reshape", [patches, squares])
    together = graph.node("Transpose", [by_square], perm=[0, 1, 3, 2, 4, 5])
    rows = graph.node("Reshape", [together, graph.integers("merged", [-1, encoder.merged_size])])
    ends = [ModelTensor(role) for role in (Role.IMAGE_LINE_END, Role.IMAGE_SEPARATOR)]
    own = [graph.plain(tensor, (1, encoder.merged_size)) for tensor in ends]
    return graph.node("Concat", [*own, rows], axis=0)


def _projected(graph: GraphBuilder, rows: str) -> str:
    wide = _product(graph, Role.IMAGE_PROJECTION_UP, None, rows)
    return _product(graph, Role.IMAGE_PROJECTION_DOWN, None, graph.node("Gelu", [wide]))


def _product(graph: GraphBuilder, role: Role, layer: int | None, state: str) -> str:
    """A matrix times the state, and its bias."""
    matrix = ModelTensor(role, layer)
    return graph.matmul(matrix, state, bias=bias_of(matrix))
