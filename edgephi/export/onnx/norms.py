"""The norms of a graph, and the sums of the residual stream that they are of."""

from edgephi.checkpoint.architecture import LayerNorm, Norm
from edgephi.checkpoint.roles import ModelTensor, bias_of
from edgephi.export.onnx.graph_builder import GraphBuilder
from edgephi.export.tensor_names import tensor_name


def normed(graph: GraphBuilder, norm: Norm, weight: ModelTensor, hidden: str) -> str:
    """The norm of `hidden`."""
    operator, numbers = _operator(graph, norm, weight)
    return graph.node(operator, [hidden, *numbers], axis=-1, epsilon=norm.epsilon, stash_type=1)


def added_and_normed(
    graph: GraphBuilder, norm: Norm, weight: ModelTensor, hidden: str, addend: str
) -> tuple[str, str]:
    """The norm of a sum, and the sum itself."""
    operator, numbers = _operator(graph, norm, weight)
    result, total = f"{tensor_name(weight)}.normed", f"{tensor_name(weight)}.sum"
    graph.add(f"Skip{operator}", [hidden, addend, *numbers], [result, "", "", total], epsilon=norm.epsilon)
    return result, total


def _operator(graph: GraphBuilder, norm: Norm, weight: ModelTensor) -> tuple[str, list[str]]:
    """The operator of a kind of norm, and its weight and bias."""
    if isinstance(norm, LayerNorm):
        return "LayerNormalization", [graph.plain(weight), graph.plain(bias_of(weight))]
    return "SimplifiedLayerNormalization", [graph.plain(weight)]
