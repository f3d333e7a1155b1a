"""What a tensor of a model is for, whatever a checkpoint, an engine or its graph calls it."""

from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    """What a tensor does. A matrix is [rows, columns] and multiplies columns of the input into rows.

    Projections of one input are one tensor, their rows one after the other: engines multiply by all of them
    at once, and whoever wants them apart takes their rows. A checkpoint that keeps them apart gives that
    tensor several sources.
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
