"""The names of tensors in graphs and files whose formats leave them to us.

They are those that transformers gives a Phi-3, whatever the checkpoint calls its own: mlx-lm's class has them
too, and who looks into a graph with another tool finds what they know.
"""

from edgephi.checkpoint.roles import ModelTensor, Role

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
}


def tensor_name(tensor: ModelTensor) -> str:
    """The name of a tensor inside an artifact."""
    return _NAMES[tensor.role] if tensor.layer is None else node_name(tensor.layer, _NAMES[tensor.role])


def matrix_name(tensor: ModelTensor) -> str:
    """The name that people have for a matrix, and recipes and manifests: "model.layers.2.mlp.down_proj"."""
    return tensor_name(tensor).removesuffix(WEIGHT_SUFFIX)


def node_name(layer: int, part: str) -> str:
    """The name of what belongs to a layer: of a value of a graph, or of a tensor."""
    return f"model.layers.{layer}.{part}"
