"""How a matrix is stored once it is quantised in groups."""

from dataclasses import dataclass
from typing import Literal

Scales = Literal["free", "multiples", "offset"]


@dataclass(frozen=True)
class Scheme:
    """What is stored of a matrix: codes, and scales along its input dimension. How they are found is no part.

    Each run of `group_size` weights of a row shares one float16 scale and, unless `symmetric`, one zero
    point of `bits` bits. A weight is `(code - zero_point) * scale` with codes in [0, 2**bits - 1]; the zero
    point of a symmetric group is 2**(bits - 1).

    `scales` "multiples" is for engines that keep one scale a row: with 4 bits the scale of a group is that of
    its row times a whole number from 1 to 16, with 8 bits it is that of its row. See `quantize.row_scales`.
    "offset" is for those that add a float16 number to each group and take no zero point away: a weight is
    `code * scale + offset`.
    """

    bits: Literal[4, 8]
    group_size: Literal[32, 64, 128]
    symmetric: bool = True
    scales: Scales = "free"

    @property
    def levels(self) -> int:
        """Number of different codes."""
        return 1 << self.bits

    @property
    def middle(self) -> int:
        """The zero point of every symmetric group."""
        return self.levels // 2
