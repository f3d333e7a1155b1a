"""What a tensor of a model is for, whatever a checkpoint, an engine or its graph calls it."""

from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    """What a tensor does. A matrix is [rows, columns] and multiplies columns of the input into rows.

    Projections of one input are one tensor, their rows one after the other: engines multiply by all of them
    at once, and whoever wants them apart takes their rows. A checkpoint that keeps them apart gives that
    tensor several sources. The matrices of a layer's experts are one stack, whose rows are numbered through.

    A bias is a vector of its own, one number a row of its matrix, or for each number that its norm scales.
    """

    EMBEDDING = "embedding"  # [vocabulary, hidden]
    ATTENTION_NORM = "norm before attention"  # [hidden]
    QUERY_KEY_VALUE = "query, key and value"  # rows: all query heads, then all key heads, all value heads
    ATTENTION_OUTPUT = "attention output"  # [hidden, heads * head size]
    FEED_FORWARD_NORM = "norm before feed-forward"  # [hidden]
    GATE_UP = "gate and up"  # rows: all of the gate, then all of up
    DOWN = "down"  # [hidden, feed-forward width]
    FINAL_NORM = "last norm"  # [hidden]
    HEAD = "head"  # [vocabulary, hidden]

    ROUTER = "router"  # [experts, hidden]
    EXPERTS_GATE_UP = "gate and up of the experts"  # [experts, 2 * width, hidden]: gate, then up, of each
    EXPERTS_DOWN = "down of the experts"  # [experts, hidden, width]

    ATTENTION_NORM_BIAS = "bias of the norm before attention"
    QUERY_KEY_VALUE_BIAS = "bias of query, key and value"
    ATTENTION_OUTPUT_BIAS = "bias of the attention output"
    FEED_FORWARD_NORM_BIAS = "bias of the norm before feed-forward"
    GATE_UP_BIAS = "bias of gate and up"
    DOWN_BIAS = "bias of down"
    FINAL_NORM_BIAS = "bias of the last norm"
    HEAD_BIAS = "bias of the head"

    # Of an image encoder and its projection: `edgephi.checkpoint.images.image_encoder` has their shapes.
    IMAGE_PATCHES = "patch embedding of images"
    IMAGE_CLASS = "class embedding of images"
    IMAGE_POSITIONS = "position embedding of images"
    IMAGE_FIRST_NORM = "first norm of the image encoder"
    IMAGE_ATTENTION_NORM = "norm before attention of the image encoder"
    IMAGE_QUERY_KEY_VALUE = "query, key and value of the image encoder"
    IMAGE_ATTENTION_OUTPUT = "attention output of the image encoder"
    IMAGE_FEED_FORWARD_NORM = "norm before feed-forward of the image encoder"
    IMAGE_UP = "up of the image encoder"
    IMAGE_DOWN = "down of the image encoder"
    IMAGE_LINE_END = "end of a line of an image"
    IMAGE_SEPARATOR = "separator of an image"
    IMAGE_PROJECTION_UP = "first projection of images"
    IMAGE_PROJECTION_DOWN = "second projection of images"

    IMAGE_FIRST_NORM_BIAS = "bias of the first norm of the image encoder"
    IMAGE_ATTENTION_NORM_BIAS = "bias of the norm before attention of the image encoder"
    IMAGE_QUERY_KEY_VALUE_BIAS = "bias of query, key and value of the image encoder"
    IMAGE_ATTENTION_OUTPUT_BIAS = "bias of the attention output of the image encoder"
    IMAGE_FEED_FORWARD_NORM_BIAS = "bias of the norm before feed-forward of the image encoder"
    IMAGE_UP_BIAS = "bias of up of the image encoder"
    IMAGE_DOWN_BIAS = "bias of down of the image encoder"
    IMAGE_PROJECTION_UP_BIAS = "bias of the first projection of images"
    IMAGE_PROJECTION_DOWN_BIAS = "bias of the second projection of images"


@dataclass(frozen=True)
class ModelTensor:
    """One tensor of a model: its role, and the number of its layer, None where it belongs to none."""

    role: Role
    layer: int | None = None

    def __str__(self) -> str:
        """As messages name it: "down of layer 3"."""
        return self.role.value if self.layer is None else f"{self.role.value} of layer {self.layer}"


EMBEDDING = ModelTensor(Role.EMBEDDING)
FINAL_NORM = ModelTensor(Role.FINAL_NORM)
HEAD = ModelTensor(Role.HEAD)
FINAL_NORM_BIAS = ModelTensor(Role.FINAL_NORM_BIAS)
HEAD_BIAS = ModelTensor(Role.HEAD_BIAS)

EXPERTS = frozenset({Role.EXPERTS_GATE_UP, Role.EXPERTS_DOWN})
"""The matrices of experts: a stack of one for each."""

BIASES = {
    Role.ATTENTION_NORM: Role.ATTENTION_NORM_BIAS,
    Role.QUERY_KEY_VALUE: Role.QUERY_KEY_VALUE_BIAS,
    Role.ATTENTION_OUTPUT: Role.ATTENTION_OUTPUT_BIAS,
    Role.FEED_FORWARD_NORM: Role.FEED_FORWARD_NORM_BIAS,
    Role.GATE_UP: Role.GATE_UP_BIAS,
    Role.DOWN: Role.DOWN_BIAS,
    Role.FINAL_NORM: Role.FINAL_NORM_BIAS,
    Role.HEAD: Role.HEAD_BIAS,
    Role.IMAGE_FIRST_NORM: Role.IMAGE_FIRST_NORM_BIAS,
    Role.IMAGE_ATTENTION_NORM: Role.IMAGE_ATTENTION_NORM_BIAS,
    Role.IMAGE_QUERY_KEY_VALUE: Role.IMAGE_QUERY_KEY_VALUE_BIAS,
    Role.IMAGE_ATTENTION_OUTPUT: Role.IMAGE_ATTENTION_OUTPUT_BIAS,
    Role.IMAGE_FEED_FORWARD_NORM: Role.IMAGE_FEED_FORWARD_NORM_BIAS,
    Role.IMAGE_UP: Role.IMAGE_UP_BIAS,
    Role.IMAGE_DOWN: Role.IMAGE_DOWN_BIAS,
    Role.IMAGE_PROJECTION_UP: Role.IMAGE_PROJECTION_UP_BIAS,
    Role.IMAGE_PROJECTION_DOWN: Role.IMAGE_PROJECTION_DOWN_BIAS,
}
"""The role of the bias that belongs to what has another role, where a model has one."""


def bias_of(tensor: ModelTensor) -> ModelTensor:
    """The bias of a norm or a matrix; whether a model has it, its shapes say. A tied head's is the head's."""
    role = Role.HEAD if tensor.role is Role.EMBEDDING else tensor.role
    return ModelTensor(BIASES[role], tensor.layer)
