"""The processors on which engines were measured, by the features that tell them apart.

Integer and matrix instructions decide: the same engine is the slowest on one of these and the fastest on the
other.
"""

from enum import Enum


class MeasuredProcessor(Enum):
    """A kind of processor that was measured; its value are the features that it has at least."""

    WITH_AMX = frozenset({"avx512_vnni", "amx_int8"})
    """2 cores of an Intel Xeon with AVX-512 and AMX, memory read at 29.9 GB/s; `edgephi bench`."""
    PLAIN = frozenset[str]()
    """2 cores of an AMD EPYC with AVX2 and without VNNI, memory read at 27.5 GB/s; the engines' own loops."""


def most_like(features: tuple[str, ...]) -> MeasuredProcessor:
    """The processor that was measured and is most like one with these features: the first that fits."""
    return next(processor for processor in MeasuredProcessor if processor.value <= set(features))
