"""Which row of the encoder each token of some images is, computed in a graph without loops.

The same as `row_order` of `edgephi.bundle.image_tokens`, for all images of a prompt at once. The engine's own
pipeline wants it so; edgephi's own runtime orders the rows itself.
"""

from onnx import TensorProto

from edgephi.bundle.image_tokens import LINE_END, SEPARATOR, ImageFacts
from edgephi.export.onnx.graph_builder import GraphBuilder

_SEPARATORS = 2  # rows before those of the first tile


def token_rows(graph: GraphBuilder, facts: ImageFacts, sizes: str, tiles: str) -> str:
    """The row of each token, int64 [tokens of all images].

    `sizes` int64 [images, 2] are heights and widths of the grids in pixels; `tiles` int64 [1] is how many
    tiles each image has in the rows, those included that are there to fill up.
    """
    side = facts.side
    one = graph.integers("one", 1)
    grids = graph.node("Div", [sizes, graph.integers("tile_pixels", facts.tile)])
    rows, columns = (
        graph.node("Gather", [grids, graph.integers(f"axis_{axis}", axis)], axis=1) for axis in (0, 1)
    )
    lines = graph.node("Mul", [rows, graph.integers("side", side)])
    of_grid = graph.node("Mul", [lines, _line_length(graph, columns, "side")])
    thumbnail = graph.integers("separator_and_thumbnail", 1 + side * (side + 1))
    counts = graph.node("Add", [of_grid, thumbnail])  # [images]
    ends = graph.node("CumSum", [counts, graph.integers("axis_0", 0)])
    total = graph.node("ReduceSum", [counts], keepdims=0)
    tokens = graph.node("Range", [graph.integers("zero", 0), total, one])
    image = _image_of(graph, tokens, ends)

    starts = graph.node("Sub", [ends, counts])
    within = graph.node("Sub", [tokens, _picked(graph, starts, image)])
    grid_end = _picked(graph, of_grid, image)
    is_separator = graph.node("Equal", [within, grid_end])
    in_thumbnail = graph.node("Greater", [within, grid_end])
    # A thumbnail is a grid of one tile that begins anew after the separator, and its tile is the first.
    after = graph.node("Sub", [graph.node("Sub", [within, grid_end]), one])
    place = graph.node("Where", [in_thumbnail, after, within])
    wide = graph.node("Where", [in_thumbnail, one, _picked(graph, columns, image)])
    first = graph.node("Where", [in_thumbnail, graph.integers("zero", 0), one])

    length = _line_length(graph, wide, "side")
    line, column = graph.node("Div", [place, length]), graph.node("Mod", [place, length])
    is_line_end = graph.node("Equal", [column, graph.node("Sub", [length, one])])
    tile_row, tile_column = (
        graph.node("Div", [each, graph.integers("side", side)]) for each in (line, column)
    )
    number = graph.node("Add", [first, graph.node("Mul", [tile_row, wide])])
    number = graph.node("Add", [number, tile_column])
    number = graph.node("Add", [number, graph.node("Mul", [image, tiles])])
    inside = [graph.node("Mod", [each, graph.integers("side", side)]) for each in (line, column)]
    row = graph.node("Add", [graph.node("Mul", [inside[0], graph.integers("side", side)]), inside[1]])
    row = graph.node("Add", [row, graph.node("Mul", [number, graph.integers("square", side**2)])])
    row = graph.node("Add", [row, graph.integers("separators", _SEPARATORS)])
    row = graph.node("Where", [is_line_end, graph.integers("line_end", LINE_END), row])
    return graph.node("Where", [is_separator, graph.integers("separator", SEPARATOR), row])


def _line_length(graph: GraphBuilder, columns: str, side: str) -> str:
    """Tokens of a line across so many tiles, its end included."""
    return graph.node("Add", [graph.node("Mul", [columns, side]), graph.integers("one", 1)])


def _image_of(graph: GraphBuilder, tokens: str, ends: str) -> str:
    """The number of the image of each token: how many images end before it."""
    by_token = graph.node("Unsqueeze", [tokens, graph.integers("last_axis", [1])])
    after = graph.node("GreaterOrEqual", [by_token, ends])  # [tokens, images]
    counted = graph.node("Cast", [after], to=TensorProto.INT64)
    return graph.node("ReduceSum", [counted, graph.integers("last_axis", [1])], keepdims=0)


def _picked(graph: GraphBuilder, values: str, image: str) -> str:
    """The value of each token's image."""
    return graph.node("Gather", [values, image])
