"""How a matrix is stored once it is quantised in groups."""

from dataclasses import dataclass
from typing import Literal

Scales = Literal["free", "multiples", "offset", "superblocks"]

SUPER_BLOCK = 256
"""Weights of a super-block."""


@dataclass(frozen=True)
class Scheme:
    """What is stored of a matrix: codes, and scales along its input dimension. How they are found is no part.

    Each run of `group_size` weights of a row shares one float16 scale and, unless `symmetric`, one zero
    point of `bits` bits. A weight is `(code - zero_point) * scale` with codes in [0, 2**bits - 1]; the zero
    point of a symmetric group is 2**(bits - 1).

    `scales` "multiples" is for engines that keep one scale a row: with 4 bits the scale of a group is that of
    its row times a whole number from 1 to 16, with 8 bits it is that of its row. See `quantize.row_scales`.
    "offset" is for those that add a float16 number to each group and take no zero point away: a weight is
    `code * scale + offset`. "superblocks" is for llama.cpp's K-quants, where 256 weights share the float16
    steps of which the scales, and the minimums of groups that are not symmetric, are whole numbers. See
    `quantize.super_blocks`.
    """

    bits: Literal[4, 5, 6, 8]
    group_size: Literal[16, 32, 64, 128]
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
