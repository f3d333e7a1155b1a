"""The names of tensors in graphs and files whose formats leave them to us.

They are those that transformers gives a Phi-3, or a Phi-3.5-MoE, whatever the checkpoint calls its own:
mlx-lm's class has them too, and who looks into a graph with another tool finds what they know. The experts of
a layer are a stack.
"""

from edgephi.checkpoint.roles import BIASES, ModelTensor, Role

WEIGHT_SUFFIX = ".weight"

_NAMES = {
    Role.EMBEDDING: "model.embed_tokens.weight",
    Role.ATTENTION_NORM: "input_layernorm.weight",
    Role.QUERY_KEY_VALUE: "self_attn.qkv_proj.weight",
    Role.ATTENTION_OUTPUT: "self_attn.o_proj.weight",
    Role.FEED_FORWARD_NORM: "post_attention_layernorm.weight",
    Role.GATE_UP: "mlp.gate_up_proj.weight",
    Role.DOWN: "mlp.down_proj.weight",
    Role.FINAL_NORM: "model.norm.weight",
    Role.HEAD: "lm_head.weight",
    Role.ROUTER: "block_sparse_moe.gate.weight",
    Role.EXPERTS_GATE_UP: "block_sparse_moe.experts.gate_up_proj.weight",
    Role.EXPERTS_DOWN: "block_sparse_moe.experts.down_proj.weight",
    Role.IMAGE_PATCHES: "image_encoder.patch_embedding.weight",
    Role.IMAGE_CLASS: "image_encoder.class_embedding",
    Role.IMAGE_POSITIONS: "image_encoder.position_embedding.weight",
    Role.IMAGE_FIRST_NORM: "image_encoder.pre_layrnorm.weight",
    Role.IMAGE_ATTENTION_NORM: "layer_norm1.weight",
    Role.IMAGE_QUERY_KEY_VALUE: "self_attn.qkv_proj.weight",
    Role.IMAGE_ATTENTION_OUTPUT: "self_attn.out_proj.weight",
    Role.IMAGE_FEED_FORWARD_NORM: "layer_norm2.weight",
    Role.IMAGE_UP: "mlp.fc1.weight",
    Role.IMAGE_DOWN: "mlp.fc2.weight",
    Role.IMAGE_LINE_END: "image_encoder.sub_GN",
    Role.IMAGE_SEPARATOR: "image_encoder.glb_GN",
    Role.IMAGE_PROJECTION_UP: "image_encoder.img_projection.0.weight",
    Role.IMAGE_PROJECTION_DOWN: "image_encoder.img_projection.2.weight",
}
_NAMES |= {bias: f"{_NAMES[role].removesuffix(WEIGHT_SUFFIX)}.bias" for role, bias in BIASES.items()}


def tensor_name(tensor: ModelTensor) -> str:
    """The name of a tensor inside an artifact."""
    if tensor.layer is None:
        return _NAMES[tensor.role]
    if tensor.role.name.startswith("IMAGE_"):
        return f"image_encoder.layers.{tensor.layer}.{_NAMES[tensor.role]}"
    return node_name(tensor.layer, _NAMES[tensor.role])


def matrix_name(tensor: ModelTensor) -> str:
    """The name that people have for a matrix, and recipes and manifests: "model.layers.2.mlp.down_proj"."""
    return tensor_name(tensor).removesuffix(WEIGHT_SUFFIX)


def node_name(layer: int, part: str) -> str:
    """The name of what belongs to a layer: of a value of a graph, or of a tensor."""
    return f"model.layers.{layer}.{part}"


def expert_part_name(layer: int, part: str) -> str:
    """The name of one part of the experts of a layer, "gate", "up" or "down", where each is a tensor."""
    return node_name(layer, f"block_sparse_moe.experts.{part}_proj.weight")
