"""Attention in a graph: one fused projection, and an operator with rotary embedding and KV cache inside.

`GroupQueryAttention` is that of dense layers; Phi-3's sliding window is a local attention window over a full
cache, not a cache that slides. `SparseAttention` is that of block-sparse layers; it wants its cache in one
buffer with room for the whole sequence, as the engine's configuration says.
"""

from dataclasses import dataclass

from onnx import TensorProto

from edgephi.checkpoint.architecture import Architecture, MixtureOfExperts
from edgephi.checkpoint.roles import ModelTensor, Role, bias_of
from edgephi.engines.onnxruntime_genai import TOLD_LENGTH_INPUT
from edgephi.export.onnx.block_layout import BLOCK_COLUMNS, BLOCK_ROWS, sparse_layers, sparsity_at
from edgephi.export.onnx.graph_builder import GraphBuilder
from edgephi.export.tensor_names import node_name


@dataclass(frozen=True)
class SequenceValues:
    """What the attention of all layers reads about the sequence.

    lengths: of each sequence, int32 [batch]
    last: index of each sequence's last token, int32 [batch]
    total_length: of the longest sequence, int32
    cos, sin: [context, rotary size / 2], of the factors that hold for this length
    """

    lengths: str
    last: str
    total_length: str
    cos: str
    sin: str


def sequence_values(
    graph: GraphBuilder, architecture: Architecture, context: int, *, told: bool
) -> SequenceValues:
    """Lengths as attention operators want them, from the attention mask; and the rotary tables.

    `told`: the graph has an input that says how long the sequence will be.
    """
    mask_sum = graph.node("ReduceSum", ["attention_mask", graph.integers("axis_1", [1])], keepdims=0)
    last = graph.node("Sub", [mask_sum, graph.integers("one", [1])])
    sequence_ends = graph.node("Cast", [last], to=TensorProto.INT32)
    lengths = ""
    if sparse_layers(architecture, context):
        lengths = graph.node("Cast", [mask_sum], to=TensorProto.INT32)
    mask_shape = graph.node("Shape", ["attention_mask"])
    total = graph.node("Gather", [mask_shape, graph.integers("index_1", 1)], axis=0)
    total_length = graph.node("Cast", [total], to=TensorProto.INT32)  # scalar

    rotary = architecture.attention.rotary
    cos, sin = graph.table("cos_cache"), graph.table("sin_cache")
    if rotary.uses_long_factors(context):
        # One length decides for all positions: index 0 holds the short factors' table, 1 the long ones'.
        limit = graph.integers("original_context", rotary.original_context)
        length = total
        if told:
            said = graph.node("Gather", [TOLD_LENGTH_INPUT, graph.integers("index_0", 0)], axis=0)
            length = graph.node("Max", [total, said])
        chosen = graph.node("Cast", [graph.node("Greater", [length, limit])], to=TensorProto.INT64)
        cos = graph.node("Gather", [cos, chosen], axis=0)
        sin = graph.node("Gather", [sin, chosen], axis=0)
    return SequenceValues(lengths, sequence_ends, total_length, cos, sin)


def is_told_length(architecture: Architecture, context: int) -> bool:
    """Whether the graph is told how long a sequence will be, and does not only see how long it is.

    With experts or block-sparse attention a first piece past LongRoPE's original context would be too large,
    and with images, which come with their rows, it would be of another size than all others.
    """
    if not architecture.attention.rotary.uses_long_factors(context):
        return False
    experts = isinstance(architecture.feed_forward, MixtureOfExperts)
    sees = architecture.image_encoder is not None
    return experts or sees or architecture.attention.sparsity is not None


def attended(
    graph: GraphBuilder,
    architecture: Architecture,
    layer: int,
    hidden: str,
    *,
    sequence: SequenceValues,
    context: int,
) -> str:
    """What a layer's attention adds to the residual stream."""
    attention = architecture.attention
    projection, output = ModelTensor(Role.QUERY_KEY_VALUE, layer), ModelTensor(Role.ATTENTION_OUTPUT, layer)
    biased = attention.biases
    # What comes before a router decides which experts there are, and is a small part of the work. With int8
    # activations there one token in thirty of a trained model got other experts, with float32 one in eighty.
    exact = isinstance(architecture.feed_forward, MixtureOfExperts)
    # [batch, length, (heads + 2 kv_heads) * head_size]
    qkv = graph.matmul(projection, hidden, bias=bias_of(projection) if biased else None, exact=exact)
    mixed = node_name(layer, "attention")  # [batch, length, heads * head_size]
    past = [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
    present = [f"present.{layer}.key", f"present.{layer}.value"]
    common = {
        "num_heads": attention.heads,
        "kv_num_heads": attention.kv_heads,
        "scale": attention.score_scale,
        "do_rotary": 1,
        "rotary_interleaved": 0,
    }
    sparsity = sparsity_at(attention, layer, context)
    if sparsity is not None:
        graph.add(
            "SparseAttention",
            [
                *[qkv, "", "", *past, graph.table(BLOCK_ROWS), graph.table(BLOCK_COLUMNS)],
                *[sequence.total_length, sequence.lengths, sequence.cos, sequence.sin],
            ],
            [mixed, *present],
            sparse_block_size=sparsity.block_size,
            **common,
        )
    else:
        window = attention.window
        graph.add(
            "GroupQueryAttention",
            [qkv, "", "", *past, sequence.last, sequence.total_length, sequence.cos, sequence.sin],
            [mixed, *present],
            # A window as wide as the context is no window, and the kernel is quicker without.
            local_window_size=window if window is not None and window < context else -1,
            **common,
        )
    return graph.matmul(output, mixed, bias=bias_of(output) if biased else None, exact=exact)
