"""Which experts compute a token, and with which weights: the routing of Phi-3.5-MoE in plain operators.

It is sparsemixer (Liu et al., 2023, arXiv:2310.00811) as `transformers` computes it for `PhimoeForCausalLM`:
each of the two experts has a weight of its own, a softmax over those experts whose logits are nearly as high.
The weights sum to 1 to 2. `use_sparse_mixer` of onnxruntime's own operators is ignored on CPUs.
"""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from edgephi.checkpoint.architecture import MixtureOfExperts
from edgephi.export.onnx.graph_builder import GraphBuilder

_NEVER = -100.0
"""The logarithm of a weight that is 0 in every type, and still a number in each of them."""


@dataclass(frozen=True)
class MixedExperts:
    """Logarithms of the experts' weights, [..., experts], and the sum of the weights, [..., 1]."""

    logarithms: str
    total: str


def sparse_mixer(graph: GraphBuilder, mixture: MixtureOfExperts, logits: str) -> MixedExperts:
    """The routing for logits [..., experts] in float32."""
    size = graph.node("Abs", [logits])
    first = _choose(graph, mixture, logits, size)
    lowest = graph.number("minus_infinity", -np.inf, like=TensorProto.FLOAT)
    others = graph.node("Where", [first.chosen, lowest, logits])
    second = _choose(graph, mixture, logits, size, remaining=others, taken=first.chosen)
    never = graph.number("no_weight", _NEVER, like=TensorProto.FLOAT)
    rest = graph.node("Where", [second.chosen, graph.node("Log", [second.weight]), never])
    logarithms = graph.node("Where", [first.chosen, graph.node("Log", [first.weight]), rest])
    return MixedExperts(logarithms, graph.node("Add", [first.weight, second.weight]))


@dataclass(frozen=True)
class _Choice:
    """One expert of each token: its weight [..., 1], and where it is, as bools [..., experts]."""

    weight: str
    chosen: str


def _choose(
    graph: GraphBuilder,
    mixture: MixtureOfExperts,
    logits: str,
    size: str,
    *,
    remaining: str | None = None,
    taken: str | None = None,
) -> _Choice:
    """The expert with the largest of the `remaining` logits; those in `taken` have been chosen before."""
    remaining = remaining or logits
    last_axis = graph.integers("last_axis", [-1])
    largest = graph.node("ReduceMax", [remaining, last_axis], keepdims=1)
    below = graph.node("Sub", [largest, logits])
    ratio = graph.node("Div", [below, graph.node("Max", [size, largest])])
    # Not "is near": where both are 0 the ratio is no number, and such an expert counts.
    limit = graph.number("largest_ratio", 2 * mixture.jitter, like=TensorProto.FLOAT)
    left_out = graph.node("Greater", [ratio, limit])
    if taken is not None:
        left_out = graph.node("Or", [left_out, taken])
    zero = graph.number("zero", 0.0, like=TensorProto.FLOAT)
    powers = graph.node("Where", [left_out, zero, graph.node("Exp", [graph.node("Neg", [below])])])
    weight = graph.node("Reciprocal", [graph.node("ReduceSum", [powers, last_axis], keepdims=1)])
    numbers = graph.integers("expert_numbers", list(range(mixture.experts)))
    where = graph.node("ArgMax", [remaining], axis=-1, keepdims=1)  # the first of equal ones
    return _Choice(weight, graph.node("Equal", [where, numbers]))
