"""Where a tensor lies in the artifact's data file, and which rows of the checkpoint it is made of."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from edgephi.checkpoint.weights.source import Source
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan

ALIGNMENT = 64
"""Every region starts on a cache line, so that an engine can use it where it lies in a mapped file."""


@dataclass(frozen=True)
class Region:
    """A run of bytes in the artifact's data file."""

    offset: int
    size: int


def align(offset: int, alignment: int = ALIGNMENT) -> int:
    """The next multiple of `alignment`."""
    return -(-offset // alignment) * alignment


def place(offset: int, sizes: Iterable[int], alignment: int = ALIGNMENT) -> tuple[Region, ...]:
    """Regions of the given sizes in bytes from `offset` on, each aligned."""
    regions = []
    for size in sizes:
        offset = align(offset, alignment)
        regions.append(Region(offset, size))
        offset += size
    return tuple(regions)


@dataclass(frozen=True)
class PackedTensor:
    """One tensor as it will lie in the artifact.

    A plan without a scheme means that it stays plain numbers of `plain_dtype`, in one region. Otherwise the
    regions are those that the exporter's `Pack` fills; they lie one after the other, each aligned.

    `sources` give every row of it once. Without any it is the tensor of the same name in the checkpoint.
    """

    name: str
    shape: tuple[int, ...]
    plan: TensorPlan
    regions: tuple[Region, ...]
    plain_dtype: type[np.floating[Any]] = np.float32
    sources: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError when the sources do not give every row once."""
        if any(len(source.rows) != len(source.into) for source in self.sources):
            raise ValueError(f"{self.name}: expected sources with as many rows as they become")
        given = chain.from_iterable(source.into for source in self.sources)
        # A plan makes a million rows' worth of tensors without any, ten times over.
        if self.sources and sorted(given) != list(range(self.rows)):
            raise ValueError(f"{self.name}: expected sources that give each of its {self.rows} rows once")

    @property
    def made_of(self) -> tuple[Source, ...]:
        """Its sources, whether they were named or not."""
        return self.sources or (Source(self.name, range(self.rows), range(self.rows)),)

    @property
    def scheme(self) -> Scheme | None:
        """What is stored of it, None for plain numbers."""
        return self.plan.scheme

    @property
    def rows(self) -> int:
        """Its number of rows."""
        return row_count(self.shape)


def row_count(shape: tuple[int, ...]) -> int:
    """Rows of a tensor: those of all matrices of a stack, and a vector's numbers."""
    return math.prod(shape[:-1]) if len(shape) > 1 else shape[0]
