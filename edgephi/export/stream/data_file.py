"""The artifact's data file: written from start to end, hashed on the way."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgephi.bundle.chunks import ChunkHashes
from edgephi.export.stream.packed_tensor import PackedTensor
from edgephi.export.stream.quantized_block import QuantizedBlock
from edgephi.export.stream.reads import Job
from edgephi.quantize.groups import ErrorSums
from edgephi.quantize.scheme import Scheme


@dataclass(frozen=True)
class TensorError:
    """What quantisation did to one tensor: relative squared error |w - original|² / |original|².

    Weighted, each weight counts as much as the mean square of its input; None where that was not measured.
    `weighted_squared_error` is not relative to anything: the squared error that one token finds in the
    tensor's output. `bytes` are those of the regions of its `weights` weights.
    """

    name: str
    scheme: Scheme
    weights: int
    bytes: int
    relative_squared_error: float
    weighted_relative_squared_error: float | None = None
    weighted_squared_error: float | None = None


class DataFile:
    """Writes the data file from start to end, hashing it and its chunks on the way."""

    def __init__(self, file: BinaryIO, chunk_sizes: Iterable[int]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.chunks = ChunkHashes(chunk_sizes)
        self._later: list[list[NDArray[np.generic]]] = []
        self._sums = ErrorSums()
        self.position = 0
        self.errors: list[TensorError] = []

    def take(self, tensor: PackedTensor, job: Job, block: QuantizedBlock) -> None:
        """Write the first region of a block; keep the others, small ones, until their tensor ends."""
        if job.start == 0:
            self.seek(tensor.regions[0].offset)
            self._later = [[] for _ in tensor.regions[1:]]
            self._sums = ErrorSums()
        self.write(block.regions[0])
        for kept, array in zip(self._later, block.regions[1:], strict=True):
            kept.append(array)
        self._sums += block.sums
        if job.stop < tensor.rows:
            return
        for region, kept in zip(tensor.regions[1:], self._later, strict=True):
            self.seek(region.offset)
            for array in kept:
                self.write(array)
        if tensor.scheme is not None:
            self.errors.append(_error(tensor, tensor.scheme, self._sums))

    def seek(self, offset: int) -> None:
        """Fill with zeros up to `offset`."""
        if offset < self.position:
            raise AssertionError(f"region at {offset} overlaps the bytes before {self.position}")
        self.write(np.zeros(offset - self.position, dtype=np.uint8))

    def write(self, array: NDArray[np.generic]) -> None:
        """Append the bytes of an array."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        self._hash.update(data)
        self.chunks.update(data)
        self._file.write(data)
        self.position += len(data)

    def hexdigest(self) -> str:
        """The sha256 of all that was written."""
        return self._hash.hexdigest()


def _error(tensor: PackedTensor, scheme: Scheme, sums: ErrorSums) -> TensorError:
    measured = tensor.plan.importance is not None
    weighted = _relative(sums.weighted_squared_error, sums.weighted_squared_norm)
    return TensorError(
        tensor.name,
        scheme,
        weights=math.prod(tensor.shape),
        bytes=sum(region.size for region in tensor.regions),
        relative_squared_error=_relative(sums.squared_error, sums.squared_norm),
        weighted_relative_squared_error=weighted if measured else None,
        weighted_squared_error=sums.weighted_squared_error if measured else None,
    )


def _relative(squared_error: float, squared_norm: float) -> float:
    return squared_error / squared_norm if squared_norm else 0.0
