"""The tensors of an MLX file by the names that the engine's classes have for them.

mlx-lm's Phi-3.5-MoE has query, key and value apart, and gate and up of the experts. In the other models'
classes every tensor is one.
"""

from edgephi.checkpoint.architecture import Architecture, MixtureOfExperts
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.export.tensor_names import node_name, tensor_name
from edgephi.export.tensor_parts import TensorParts, gate_and_up, projections, whole

_EXPERTS = "block_sparse_moe.switch_mlp"


def parts_of(tensor: ModelTensor, shape: tuple[int, ...], architecture: Architecture) -> TensorParts:
    """What a tensor of this model, of this shape, is in a file."""
    feed_forward, layer = architecture.feed_forward, tensor.layer
    if not isinstance(feed_forward, MixtureOfExperts) or layer is None:
        return whole(tensor_name(tensor), shape)
    match tensor.role:
        case Role.QUERY_KEY_VALUE | Role.QUERY_KEY_VALUE_BIAS:
            kind = "weight" if tensor.role is Role.QUERY_KEY_VALUE else "bias"
            names = [node_name(layer, f"self_attn.{part}_proj.{kind}") for part in "qkv"]
            return projections(architecture.attention, names, shape[1:])
        case Role.EXPERTS_GATE_UP:
            names = [node_name(layer, f"{_EXPERTS}.{part}_proj.weight") for part in ("gate", "up")]
            return gate_and_up(feed_forward, names, shape[-1])
        case Role.EXPERTS_DOWN:
            return whole(node_name(layer, f"{_EXPERTS}.down_proj.weight"), shape)
        case _:
            return whole(tensor_name(tensor), shape)
