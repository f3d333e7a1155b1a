"""An image encoder and its projection as two OpenVINO graphs.

`VLMPipeline` of openvino-genai wants them apart, because between the two it puts two by two patches together
and tiles side by side. Their inputs and outputs have the names that optimum-intel gives to them.

Names: B tiles, P patches of a tile, H hidden size of the encoder, S head size.
"""

from collections.abc import Mapping

from edgephi.checkpoint.images.image_encoder import COLOURS, ImageEncoder
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.export.openvino.images.operators import ImageOperators
from edgephi.export.openvino.intermediate_representation import UNKNOWN, Graph, Value
from edgephi.export.stream.packed_tensor import PackedTensor

PROJECTION = frozenset(
    {
        Role.IMAGE_PROJECTION_UP,
        Role.IMAGE_PROJECTION_UP_BIAS,
        Role.IMAGE_PROJECTION_DOWN,
        Role.IMAGE_PROJECTION_DOWN_BIAS,
    }
)
"""The tensors of the second graph."""
SEPARATORS = (Role.IMAGE_LINE_END, Role.IMAGE_SEPARATOR)
"""Those that neither graph has: they come between the two."""


def build_encoder_graph(
    encoder: ImageEncoder, tensors: Mapping[ModelTensor, PackedTensor], *, literals_at: int
) -> Graph:
    """Tiles, f32 [B, 3, tile, tile], to what the encoder makes of each patch, f32 [B, P, H]."""
    graph = Graph("image_encoder", literals_at=literals_at)
    o = ImageOperators(graph, tensors)
    hidden, patches = encoder.hidden_size, encoder.patches
    pixels = graph.parameter("pixel_values", "f32", (UNKNOWN, COLOURS, encoder.tile, encoder.tile))
    cut = o.reshape(
        o.cut(pixels, ModelTensor(Role.IMAGE_PATCHES)), [0, hidden, -1], (UNKNOWN, hidden, patches)
    )
    class_embedding = o.reshape(o.plain(ModelTensor(Role.IMAGE_CLASS)), [1, 1, hidden], (1, 1, hidden))
    one_each = o.concat([o.dimension(pixels, 0), o.literal([1]), o.literal([hidden])], 0)
    first = o.broadcast(class_embedding, one_each, (UNKNOWN, 1, hidden), bidirectional=False)
    x = o.concat([first, o.transpose(cut, [0, 2, 1])], 1)  # [B, 1 + P, H]
    x = o.add(x, o.plain(ModelTensor(Role.IMAGE_POSITIONS)))
    x = o.layer_norm(ModelTensor(Role.IMAGE_FIRST_NORM), x, encoder.epsilon)
    for layer in range(encoder.layers):
        normed = o.layer_norm(ModelTensor(Role.IMAGE_ATTENTION_NORM, layer), x, encoder.epsilon)
        x = o.add(x, _attention(o, encoder, layer, normed))
        normed = o.layer_norm(ModelTensor(Role.IMAGE_FEED_FORWARD_NORM, layer), x, encoder.epsilon)
        up = o.project(ModelTensor(Role.IMAGE_UP, layer), normed, biased=True)
        x = o.add(x, o.project(ModelTensor(Role.IMAGE_DOWN, layer), o.quick_gelu(up), biased=True))
    _, of_patches = o.split(x, 1, [1, patches])
    graph.result("last_hidden_state", of_patches)
    return graph


def build_projection_graph(
    encoder: ImageEncoder, tensors: Mapping[ModelTensor, PackedTensor], *, literals_at: int
) -> Graph:
    """Vectors of two by two patches, f32 [B, tokens, 4 H], to embeddings for the decoder."""
    graph = Graph("image_projection", literals_at=literals_at)
    o = ImageOperators(graph, tensors)
    merged = graph.parameter("input", "f32", (UNKNOWN, UNKNOWN, encoder.merged_size))
    up = o.project(ModelTensor(Role.IMAGE_PROJECTION_UP), merged, biased=True)
    graph.result(
        "last_hidden_state",
        o.project(ModelTensor(Role.IMAGE_PROJECTION_DOWN), o.gelu(up), biased=True),
    )
    return graph


def _attention(o: ImageOperators, encoder: ImageEncoder, layer: int, x: Value) -> Value:
    """Attention among all patches of a tile, [B, 1 + P, H] -> [B, 1 + P, H]."""
    heads, hidden = encoder.heads, encoder.hidden_size
    size = hidden // heads
    rows = o.project(ModelTensor(Role.IMAGE_QUERY_KEY_VALUE, layer), x, biased=True)  # [B, 1 + P, 3 H]
    query, key, value = (
        o.transpose(o.reshape(part, [0, 0, heads, size], (*part.shape[:2], heads, size)), [0, 2, 1, 3])
        for part in o.split(rows, -1, [hidden] * 3)
    )  # each [B, heads, 1 + P, S]
    mixed = o.transpose(o.attend(query, key, value), [0, 2, 1, 3])
    joined = o.reshape(mixed, [0, 0, hidden], x.shape)
    return o.project(ModelTensor(Role.IMAGE_ATTENTION_OUTPUT, layer), joined, biased=True)
