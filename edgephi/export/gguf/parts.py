"""The tensors of a GGUF file by llama.cpp's names.

Its "phi3" has the fused projections as they are; gate and up are in `ffn_up`. Its "phimoe" adds no bias to a
fused projection, so query, key and value lie apart there, as do gate and up of the experts.
"""

from gguf import MODEL_TENSOR, TENSOR_NAMES

from edgephi.checkpoint.architecture import Architecture, MixtureOfExperts
from edgephi.checkpoint.roles import BIASES, ModelTensor, Role
from edgephi.export.tensor_parts import TensorParts, gate_and_up, projections, whole

_KINDS = {
    Role.EMBEDDING: MODEL_TENSOR.TOKEN_EMBD,
    Role.ATTENTION_NORM: MODEL_TENSOR.ATTN_NORM,
    Role.QUERY_KEY_VALUE: MODEL_TENSOR.ATTN_QKV,
    Role.ATTENTION_OUTPUT: MODEL_TENSOR.ATTN_OUT,
    Role.FEED_FORWARD_NORM: MODEL_TENSOR.FFN_NORM,
    Role.GATE_UP: MODEL_TENSOR.FFN_UP,
    Role.DOWN: MODEL_TENSOR.FFN_DOWN,
    Role.FINAL_NORM: MODEL_TENSOR.OUTPUT_NORM,
    Role.HEAD: MODEL_TENSOR.OUTPUT,
    Role.ROUTER: MODEL_TENSOR.FFN_GATE_INP,
    Role.EXPERTS_DOWN: MODEL_TENSOR.FFN_DOWN_EXP,
}
_WEIGHTS = {bias: role for role, bias in BIASES.items()}
_PROJECTIONS = (MODEL_TENSOR.ATTN_Q, MODEL_TENSOR.ATTN_K, MODEL_TENSOR.ATTN_V)
_GATE_AND_UP = (MODEL_TENSOR.FFN_GATE_EXP, MODEL_TENSOR.FFN_UP_EXP)


def gguf_name(tensor: ModelTensor) -> str:
    """llama.cpp's name of a tensor that is one in a file."""
    role = _WEIGHTS.get(tensor.role, tensor.role)
    return _name(_KINDS[role], tensor)


def projection_names(tensor: ModelTensor) -> list[str]:
    """llama.cpp's names of query, key and value of a tensor that is all of them, or of their biases."""
    return [_name(kind, tensor) for kind in _PROJECTIONS]


def parts_of(tensor: ModelTensor, shape: tuple[int, ...], architecture: Architecture) -> TensorParts:
    """What a tensor of this model, of this shape, is in a file."""
    feed_forward = architecture.feed_forward
    if isinstance(feed_forward, MixtureOfExperts):
        match tensor.role:
            case Role.QUERY_KEY_VALUE | Role.QUERY_KEY_VALUE_BIAS:
                return projections(architecture.attention, projection_names(tensor), shape[1:])
            case Role.EXPERTS_GATE_UP:
                names = [_name(kind, tensor) for kind in _GATE_AND_UP]
                return gate_and_up(feed_forward, names, shape[-1])
            case _:
                pass
    return whole(gguf_name(tensor), shape)


def _name(kind: MODEL_TENSOR, tensor: ModelTensor) -> str:
    suffix = "bias" if tensor.role in _WEIGHTS else "weight"
    return f"{TENSOR_NAMES[kind].format(bid=tensor.layer)}.{suffix}"
