"""A mixture of experts: the router, and the experts that it chooses for each token.

The experts are written as if every token went through all of them, each on its own copy of the tokens, and
what the router did not choose were multiplied by 0. That is the one shape that OpenVINO's plugins replace by
products with the chosen experts only (`GatherMatmul`). Where another shape would compute the same, they do
compute all experts, silently: `expert_check` looks whether they do.

Sources: `ConvertTiledMoeBlockTo3GatherMatmuls` of OpenVINO's transformations; for the router, SparseMixer
(arXiv:2310.00811) at inference.

Names: B batch, L new tokens, H hidden size, E experts.
"""

import numpy as np

from edgephi.checkpoint.architecture import MixtureOfExperts
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.export.openvino.intermediate_representation import UNKNOWN, Value
from edgephi.export.openvino.operators import Operators
from edgephi.export.tensor_names import expert_part_name


def add_experts(o: Operators, experts: MixtureOfExperts, layer: int, x: Value) -> Value:
    """The weighted sum of what the chosen experts make of each token: [B, L, H] -> [B, L, H]."""
    count, hidden = experts.experts, x.shape[-1]
    flat = o.reshape(x, [-1, hidden], (UNKNOWN, hidden))  # [tokens, H]
    router = o.plain(ModelTensor(Role.ROUTER, layer))
    chosen, weights = _route(o, experts, o.matmul(flat, router, transpose_b=True))  # [tokens, chosen] each
    tokens = o.dimension(flat, 0)
    nothing = o.broadcast(o.literal(0.0, "f32"), o.concat([tokens, o.literal([count])], 0), (UNKNOWN, count))
    routing = o.scatter(nothing, chosen, weights, 1)  # [tokens, E]

    copies = o.reshape(o.tile(flat, count), [count, -1, hidden], (count, UNKNOWN, hidden))  # [E, tokens, H]
    gate_up, down = (ModelTensor(role, layer) for role in (Role.EXPERTS_GATE_UP, Role.EXPERTS_DOWN))

    def multiply(tokens: Value, matrices: ModelTensor, name: str, part: int = 0, parts: int = 1) -> Value:
        weights = o.weights(matrices, name, part=part, parts=parts)
        return o.matmul(tokens, weights, transpose_b=True)

    gate = multiply(copies, gate_up, expert_part_name(layer, "gate"), 0, 2)  # [E, tokens, width]
    up = multiply(copies, gate_up, expert_part_name(layer, "up"), 1, 2)
    gated = o.multiply(o.unary("Swish", gate, version="opset4"), up)  # Swish without a second input
    made = multiply(gated, down, expert_part_name(layer, "down"))  # [E, tokens, H]

    batch, length = o.dimension(x, 0), o.dimension(x, 1)
    apart = (count, *x.shape)
    by_text = o.reshape_to(made, o.concat([o.literal([count]), batch, length, o.literal([hidden])], 0), apart)
    shares = o.reshape_to(
        o.transpose(routing, [1, 0]), o.concat([o.literal([count]), batch, length], 0), apart[:-1]
    )
    return o.reduce("ReduceSum", o.multiply(by_text, o.unsqueeze(shares, [3])), [0], keep=False)


def _route(o: Operators, experts: MixtureOfExperts, scores: Value) -> tuple[Value, Value]:
    """The experts of each token, i64, and the weights of what they make, f32; [tokens, chosen] both.

    The one with the highest score is chosen, and then that of the rest. The weight of each is its share in a
    softmax over those of the rest whose scores are near its own.
    """
    highest, chosen = o.largest(scores, experts.chosen)
    ones = [1] * experts.chosen
    names = o.literal(np.arange(experts.experts).reshape(1, -1))  # [1, E]
    sizes = o.unary("Abs", scores)
    weights = []
    rest: Value | None = None  # boolean [tokens, E], None for all
    for own, place in zip(o.split(highest, 1, ones), o.split(chosen, 1, ones), strict=True):  # [tokens, 1]
        below = o.subtract(own, scores)
        # The distance in parts of the larger number, without a division by 0: equal scores are near.
        limit = o.multiply(o.maximum(sizes, own), o.literal(2 * experts.jitter, "f32"))
        near = o.negate(o.greater(below, limit))
        near = near if rest is None else o.both(near, rest)
        powers = o.unary("Exp", o.scale(below, -1.0))
        share = o.select(near, powers, o.literal(0.0, "f32"))
        weights.append(o.divide(o.literal(1.0, "f32"), o.reduce("ReduceSum", share, [1], keep=True)))
        others = o.negate(o.equal(names, place))
        rest = others if rest is None else o.both(rest, others)
    return chosen, o.concat(weights, 1)
