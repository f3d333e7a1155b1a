"""The norms of a graph, and the sums of the residual stream that they are of."""

from edgephi.checkpoint.architecture import RmsNorm
from edgephi.checkpoint.roles import ModelTensor
from edgephi.export.onnx.graph_builder import GraphBuilder
from edgephi.export.tensor_names import tensor_name


def normed(graph: GraphBuilder, norm: RmsNorm, weight: ModelTensor, hidden: str) -> str:
    """The norm of `hidden`."""
    return graph.node(
        "SimplifiedLayerNormalization",
        [hidden, graph.vector(weight)],
        axis=-1,
        epsilon=norm.epsilon,
        stash_type=1,
    )


def added_and_normed(
    graph: GraphBuilder, norm: RmsNorm, weight: ModelTensor, hidden: str, addend: str
) -> tuple[str, str]:
    """The norm of a sum, and the sum itself."""
    result, total = f"{tensor_name(weight)}.normed", f"{tensor_name(weight)}.sum"
    graph.add(
        "SkipSimplifiedLayerNormalization",
        [hidden, addend, graph.vector(weight)],
        [result, "", "", total],
        epsilon=norm.epsilon,
    )
    return result, total
