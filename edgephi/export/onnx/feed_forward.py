"""The feed-forwards of a graph."""

from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.export.onnx.graph_builder import GraphBuilder
from edgephi.export.tensor_names import node_name


def gated_silu(graph: GraphBuilder, layer: int, hidden: str) -> str:
    """What SwiGLU adds to the residual stream."""
    gate_up = graph.matmul(ModelTensor(Role.GATE_UP, layer), hidden)  # [batch, length, 2 width]
    gate, up = node_name(layer, "gate"), node_name(layer, "up")
    graph.add("Split", [gate_up], [gate, up], axis=-1, num_outputs=2)
    activated = graph.node("Mul", [gate, graph.node("Sigmoid", [gate])])  # SiLU
    return graph.matmul(ModelTensor(Role.DOWN, layer), graph.node("Mul", [activated, up]))
