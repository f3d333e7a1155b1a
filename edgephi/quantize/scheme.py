"""What group-wise quantisation to apply to a matrix."""

from dataclasses import dataclass
from typing import Literal

Method = Literal["search", "rtn"]


@dataclass(frozen=True)
class Scheme:
    """Group-wise quantisation of a matrix along its input dimension.

    Each run of `group_size` weights of a row shares one float16 scale and, unless `symmetric`, one zero
    point of `bits` bits. A weight is `(code - zero_point) * scale` with codes in [0, 2**bits - 1]; the zero
    point of a symmetric group is 2**(bits - 1). `method` "search" tries many scales for each group and keeps
    the one with the least squared error, "rtn" (round to nearest) takes the one that spans the group.
    """

    bits: Literal[4, 8]
    group_size: Literal[32, 64, 128]
    symmetric: bool = True
    method: Method = "search"

    @property
    def levels(self) -> int:
        """Number of different codes."""
        return 1 << self.bits

    @property
    def middle(self) -> int:
        """The zero point of every symmetric group."""
        return self.levels // 2
