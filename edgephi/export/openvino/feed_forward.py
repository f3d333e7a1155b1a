"""The feed-forward of a layer: one of the kinds that an architecture may have.

Names: B batch, L new tokens, H hidden size.
"""

from edgephi.checkpoint.architecture import ClippedGeglu, FeedForward, MixtureOfExperts
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.export.openvino.experts import add_experts
from edgephi.export.openvino.intermediate_representation import Value
from edgephi.export.openvino.operators import Operators

_SIGMOID_FACTOR = 1.702


def add_feed_forward(o: Operators, kind: FeedForward, layer: int, x: Value) -> Value:
    """What the feed-forward of a layer makes of [B, L, H], of the same shape."""
    if isinstance(kind, MixtureOfExperts):
        return add_experts(o, kind, layer, x)
    if isinstance(kind, ClippedGeglu):
        return _clipped_geglu(o, kind, layer, x)
    gate, up = o.split(o.project(ModelTensor(Role.GATE_UP, layer), x), -1, [kind.width, kind.width])
    gated = o.multiply(o.unary("Swish", gate, version="opset4"), up)
    return o.project(ModelTensor(Role.DOWN, layer), gated)


def _clipped_geglu(o: Operators, kind: ClippedGeglu, layer: int, x: Value) -> Value:
    """down(gate * sigmoid(1.702 gate) * (up + 1)), gate at most the limit, up at most that far from 0."""
    both = o.project(ModelTensor(Role.GATE_UP, layer), x, biased=True)
    gate, up = o.split(both, -1, [kind.width, kind.width])
    limit = o.literal(kind.limit, "f32")
    gate = o.minimum(gate, limit)
    up = o.maximum(o.minimum(up, limit), o.literal(-kind.limit, "f32"))
    gated = o.multiply(gate, o.unary("Sigmoid", o.scale(gate, _SIGMOID_FACTOR)))
    made = o.multiply(gated, o.add(up, o.literal(1.0, "f32")))
    return o.project(ModelTensor(Role.DOWN, layer), made, biased=True)
