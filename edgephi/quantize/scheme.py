"""What group-wise quantisation to apply to a matrix."""

from dataclasses import dataclass
from typing import Literal

Method = Literal["search", "rtn"]

Scales = Literal["free", "multiples"]


@dataclass(frozen=True)
class Scheme:
    """Group-wise quantisation of a matrix along its input dimension.

    Each run of `group_size` weights of a row shares one float16 scale and, unless `symmetric`, one zero
    point of `bits` bits. A weight is `(code - zero_point) * scale` with codes in [0, 2**bits - 1]; the zero
    point of a symmetric group is 2**(bits - 1). `method` "search" tries many scales for each group and keeps
    the one with the least squared error, "rtn" (round to nearest) takes the one that spans the group.

    `scales` "multiples" is for engines that keep one scale a row: with 4 bits the scale of a group is that of
    its row times a whole number from 1 to 16, with 8 bits it is that of its row. See `quantize.row_scales`.
    """

    bits: Literal[4, 8]
    group_size: Literal[32, 64, 128]
    symmetric: bool = True
    method: Method = "search"
    scales: Scales = "free"

    @property
    def levels(self) -> int:
        """Number of different codes."""
        return 1 << self.bits

    @property
    def middle(self) -> int:
        """The zero point of every symmetric group."""
        return self.levels // 2
