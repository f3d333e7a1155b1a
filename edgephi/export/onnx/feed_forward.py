"""The feed-forwards of a graph: what each adds to the residual stream."""

from onnx import TensorProto

from edgephi.checkpoint.architecture import Architecture, ClippedGeglu, MixtureOfExperts
from edgephi.checkpoint.roles import ModelTensor, Role, bias_of
from edgephi.export.onnx.graph_builder import GraphBuilder
from edgephi.export.onnx.sparse_mixer import sparse_mixer
from edgephi.export.tensor_names import node_name

_SLOPE = 1.702  # of the sigmoid that stands in for GELU's
_ZERO_POINTS_INPUT = 11  # of QMoE, for the first product


def fed_forward(graph: GraphBuilder, architecture: Architecture, layer: int, hidden: str) -> str:
    """The feed-forward of a layer, of whichever kind."""
    kind = architecture.feed_forward
    if isinstance(kind, MixtureOfExperts):
        return _mixture_of_experts(graph, kind, layer, hidden)
    if isinstance(kind, ClippedGeglu):
        return _clipped_geglu(graph, kind, layer, hidden)
    return _gated_silu(graph, layer, hidden)


def _gated_silu(graph: GraphBuilder, layer: int, hidden: str) -> str:
    gate_up = graph.matmul(ModelTensor(Role.GATE_UP, layer), hidden)  # [batch, length, 2 width]
    gate, up = node_name(layer, "gate"), node_name(layer, "up")
    graph.add("Split", [gate_up], [gate, up], axis=-1, num_outputs=2)
    activated = graph.node("Mul", [gate, graph.node("Sigmoid", [gate])])  # SiLU
    return graph.matmul(ModelTensor(Role.DOWN, layer), graph.node("Mul", [activated, up]))


def _clipped_geglu(graph: GraphBuilder, kind: ClippedGeglu, layer: int, hidden: str) -> str:
    first, second = ModelTensor(Role.GATE_UP, layer), ModelTensor(Role.DOWN, layer)
    gate_up = graph.matmul(first, hidden, bias=bias_of(first))
    gate, up = node_name(layer, "gate"), node_name(layer, "up")
    graph.add("Split", [gate_up], [gate, up], axis=-1, num_outputs=2)
    highest, lowest = graph.number("limit", kind.limit), graph.number("minus_limit", -kind.limit)
    activated = graph.node("QuickGelu", [graph.node("Clip", [gate, "", highest])], alpha=_SLOPE)
    clipped = graph.node("Clip", [up, lowest, highest])
    factor = graph.node("Add", [clipped, graph.number("one_more", 1.0)])
    product = graph.node("Mul", [activated, factor])
    return graph.matmul(second, product, bias=bias_of(second))


def _mixture_of_experts(graph: GraphBuilder, kind: MixtureOfExperts, layer: int, hidden: str) -> str:
    """`QMoE`, told whom to take by its `router_probs`.

    Of these it makes a softmax over the experts that it takes, on every provider; not every provider looks at
    `router_weights`. So it gets the logarithms of our weights and makes weights of them that sum to 1.
    """
    exact = hidden
    if graph.float_type != TensorProto.FLOAT:
        exact = graph.node("Cast", [hidden], to=TensorProto.FLOAT)  # near ties are decided in float32
    router = graph.node("Transpose", [graph.plain(ModelTensor(Role.ROUTER, layer))], perm=[1, 0])
    logits = graph.node("MatMul", [exact, router])  # [batch, length, experts]
    routing = sparse_mixer(graph, kind, logits)
    by_token = graph.integers("by_token", [-1, kind.experts])
    logarithms = graph.node("Reshape", [routing.logarithms, by_token])
    first, (fc1, fc1_scales, *fc1_zeros) = graph.stack(ModelTensor(Role.EXPERTS_GATE_UP, layer))
    second, (fc2, fc2_scales, *fc2_zeros) = graph.stack(ModelTensor(Role.EXPERTS_DOWN, layer))
    inputs = [hidden, _as_floats(graph, logarithms), fc1, fc1_scales, "", fc2, fc2_scales]
    if fc1_zeros or fc2_zeros:
        inputs += [""] * (_ZERO_POINTS_INPUT - len(inputs)) + (fc1_zeros or [""]) + fc2_zeros
    mixed = graph.node(
        "QMoE",
        inputs,
        k=kind.chosen,
        activation_type="swiglu",  # gate * sigmoid(alpha * gate) * (up + beta)
        activation_alpha=1.0,
        activation_beta=0.0,
        swiglu_fusion=1,  # rows of gate and of up by turns
        normalize_routing_weights=1,
        expert_weight_bits=first.bits,
        fc2_expert_weight_bits=second.bits,
        block_size=first.group_size,
        weights_prepacked=0,
        accuracy_level=graph.accuracy_level,
    )
    return graph.node("Mul", [mixed, _as_floats(graph, routing.total)])


def _as_floats(graph: GraphBuilder, value: str) -> str:
    """A value of float32 in the type of the graph."""
    if graph.float_type == TensorProto.FLOAT:
        return value
    return graph.node("Cast", [value], to=graph.float_type)
