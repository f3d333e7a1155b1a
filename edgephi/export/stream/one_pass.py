"""The one pass over a checkpoint: read a few rows, quantise, pack, write, hash. Engine-neutral.

Worker threads read blocks of rows and have them quantised, each by a process of its own where there is
enough to do; the calling thread takes the results in file order, hashes the input and the output, and writes.
Only as many blocks are in flight as there are workers plus a few, so memory does not depend on the model's
size.
"""

import contextlib
import hashlib
import math
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgephi.bundle.chunks import ChunkHashes, cut
from edgephi.checkpoint.safetensors import ShardHeader, TensorEntry, read_bytes, to_float32
from edgephi.errors import BadCheckpointError
from edgephi.export.stream.quantized_block import BlockQuantizer, Pack
from edgephi.export.stream.quantizing_process import QuantizingProcess
from edgephi.quantize.groups import NotFiniteError
from edgephi.quantize.scheme import Scheme
from edgephi.steps import Step, silent

# Weights in one block. Large enough that its NumPy calls outweigh the hand-over between threads: 2**19 take a
# tenth longer. Small enough that the blocks in flight take some 30 MB.
BLOCK_WEIGHTS = 1 << 20

# So many weights to quantise are worth starting processes, which takes as long as quantising 2**24 of them.
_WORTH_PROCESSES = 1 << 27

ALIGNMENT = 64
"""Every region starts on a cache line, so that an engine can use it where it lies in a mapped file."""


@dataclass(frozen=True)
class Region:
    """A run of bytes in the artifact's data file."""

    offset: int
    size: int


@dataclass(frozen=True)
class PackedTensor:
    """One tensor of the checkpoint as it will lie in the artifact.

    `scheme` None means that it stays plain numbers of `plain_dtype`, in one region. Otherwise the regions are
    those that the exporter's `Pack` fills; they lie one after the other, each aligned.
    """

    name: str
    shape: tuple[int, ...]
    scheme: Scheme | None
    regions: tuple[Region, ...]
    plain_dtype: type[np.floating[Any]] = np.float32


@dataclass(frozen=True)
class TensorError:
    """What quantisation did to one tensor: relative squared error |w - original|² / |original|²."""

    name: str
    scheme: Scheme
    relative_squared_error: float


@dataclass(frozen=True)
class StreamReport:
    """What the pass found: hashes of input files and of the data file, and the error of each tensor.

    `data_chunks` is the data file's table for the manifest.
    """

    input_sha256: Mapping[str, str]
    data_file: str
    data_size: int
    data_sha256: str
    data_chunks: tuple[str, ...]
    errors: tuple[TensorError, ...]


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
class _Job:
    """Rows `start` to `stop` of a tensor. `tensor` None: the bytes are only hashed, `rows` are bytes."""

    entry: TensorEntry
    tensor: PackedTensor | None
    start: int
    stop: int
    rows: int


@dataclass(frozen=True)
class _Block:
    """What a worker made of a job: the bytes it read, and an array for each region."""

    raw: NDArray[np.uint8]
    regions: tuple[NDArray[np.generic], ...] = ()
    squared_error: float = 0.0
    squared_norm: float = 0.0


def stream_tensors(
    shards: Sequence[ShardHeader],
    tensors: Mapping[str, PackedTensor],
    pack: Pack,
    file: BinaryIO,
    *,
    preamble: bytes = b"",
    lookup_tables: Sequence[tuple[Region, NDArray[np.generic]]] = (),
    step: Step = silent,
    threads: int | None = None,
    processes: bool | None = None,
) -> StreamReport:
    """Write the artifact's data to `file` and report on it.

    The regions of `tensors` must lie in the order of the shards and of the tensors inside them; tensors of
    the checkpoint that are not among them are only hashed. `preamble` (a format's header) comes first, and
    `lookup_tables` come last; offsets count from the start of the file. It is a `step`, in bytes of the
    tensors. `threads` defaults to the processors we may use; `processes` says
    whether each of them has its weights quantised by a process, which large checkpoints have by default.

    Raises BadCheckpointError when a file is shorter than its header says, or a weight is not finite.
    """
    workers = threads or available_processors()
    regions = [region for tensor in tensors.values() for region in tensor.regions]
    regions += [region for region, _ in lookup_tables]
    size = max([len(preamble), *(region.offset + region.size for region in regions)])
    out = _DataWriter(file, cut(size, [region.offset for region in regions]))
    out.write(np.frombuffer(preamble, np.uint8))
    input_sha256: dict[str, str] = {}
    if processes is None:
        processes = _quantised_weights(tensors.values()) >= _WORTH_PROCESSES
    # The pool is left first: no worker may read from a descriptor that is closed already.
    with (
        step("quantise and export", sum(entry.size for shard in shards for entry in shard.entries)) as done,
        contextlib.ExitStack() as open_files,
        _Quantizers(processes) as quantizers,
        ThreadPoolExecutor(workers, "quantise") as pool,
    ):
        for shard in shards:
            descriptor = open_files.enter_context(shard.file.open("rb", buffering=0)).fileno()
            digest = hashlib.sha256(shard.raw)
            work = (
                (job, pool.submit(_work, descriptor, job, pack, quantizers))
                for entry in shard.entries
                for job in _jobs(entry, tensors.get(entry.name))
            )
            for job, block in _in_order(work, ahead=workers + 2):
                digest.update(block.raw.data)
                if job.tensor is not None:
                    out.take(job, job.tensor, block)
                done(block.raw.nbytes)
            input_sha256[shard.file.name] = digest.hexdigest()
    for region, table in lookup_tables:
        out.seek(region.offset)
        out.write(table)
    return StreamReport(
        input_sha256,
        Path(file.name).name,
        out.position,
        out.hexdigest(),
        out.chunks.table(),
        tuple(out.errors),
    )


def available_processors() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _jobs(entry: TensorEntry, tensor: PackedTensor | None) -> Iterator[_Job]:
    """Cut a tensor into blocks of whole rows, or a tensor that is only hashed into runs of bytes."""
    if tensor is None:
        total, step = entry.size, BLOCK_WEIGHTS * 2
    else:
        total = entry.shape[0]
        step = max(1, BLOCK_WEIGHTS // entry.shape[1]) if len(entry.shape) == 2 else total
    for start in range(0, total, step):
        yield _Job(entry, tensor, start, min(start + step, total), total)


def _in_order(work: Iterator[tuple[_Job, Future[_Block]]], *, ahead: int) -> Iterator[tuple[_Job, _Block]]:
    """The finished jobs in the order in which they were begun, at most `ahead` of them under way."""
    waiting: deque[tuple[_Job, Future[_Block]]] = deque()
    for item in work:
        waiting.append(item)
        if len(waiting) > ahead:
            job, future = waiting.popleft()
            yield job, future.result()
    while waiting:
        job, future = waiting.popleft()
        yield job, future.result()


def _quantised_weights(tensors: Iterable[PackedTensor]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors if tensor.scheme is not None)


class _Quantizers(contextlib.AbstractContextManager["_Quantizers"]):
    """A quantiser for each thread that asks for one: in this process, or in one of its own."""

    def __init__(self, processes: bool) -> None:
        self._processes = processes
        self._mine = threading.local()
        self._started = contextlib.ExitStack()

    def mine(self) -> BlockQuantizer | QuantizingProcess:
        """The quantiser of the thread that asks."""
        quantizer: BlockQuantizer | QuantizingProcess | None = getattr(self._mine, "quantizer", None)
        if quantizer is None:
            quantizer = QuantizingProcess() if self._processes else BlockQuantizer()
            if isinstance(quantizer, QuantizingProcess):
                self._started.callback(quantizer.close)
            self._mine.quantizer = quantizer
        return quantizer

    def __exit__(self, *_: object) -> None:
        self._started.close()


def _work(descriptor: int, job: _Job, pack: Pack, quantizers: _Quantizers) -> _Block:
    """In a worker: read the rows of a job, have them quantised and packed."""
    bytes_per_row = job.entry.size // job.rows
    offset = job.entry.start + job.start * bytes_per_row
    raw = read_bytes(descriptor, offset, (job.stop - job.start) * bytes_per_row, file=job.entry.file)
    if job.tensor is None:
        return _Block(raw)
    scheme = job.tensor.scheme
    if scheme is None:
        # The value that overflows a smaller type is infinite there: it must not come through either.
        with np.errstate(over="ignore"):
            plain = to_float32(raw, job.entry.dtype).astype(job.tensor.plain_dtype, copy=False)
        if not np.isfinite(plain).all():
            kind = np.dtype(job.tensor.plain_dtype).name
            raise _not_finite(job.entry, f"NaN or infinity, or a value past {kind}'s range")
        return _Block(raw, (plain,))
    try:
        block = quantizers.mine().quantize(raw, job.entry.dtype, job.stop - job.start, scheme, pack)
    except NotFiniteError as cause:
        raise _not_finite(job.entry, str(cause)) from None
    return _Block(raw, block.regions, block.squared_error, block.squared_norm)


def _not_finite(entry: TensorEntry, found: str) -> BadCheckpointError:
    return BadCheckpointError(
        f"{entry.file.name}: tensor {entry.name}: expected finite weights, found {found}",
        hint="the checkpoint is damaged or was saved by a diverged run; fetch or export it again",
    )


class _DataWriter:
    """Writes the data file from start to end, hashing it and its chunks on the way."""

    def __init__(self, file: BinaryIO, chunk_sizes: Iterable[int]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.chunks = ChunkHashes(chunk_sizes)
        self._later: list[list[NDArray[np.generic]]] = []
        self._squared_error = 0.0
        self._squared_norm = 0.0
        self.position = 0
        self.errors: list[TensorError] = []

    def take(self, job: _Job, tensor: PackedTensor, block: _Block) -> None:
        """Write the first region of a block; keep the others, small ones, until their tensor ends."""
        if job.start == 0:
            self.seek(tensor.regions[0].offset)
            self._later = [[] for _ in tensor.regions[1:]]
            self._squared_error = self._squared_norm = 0.0
        self.write(block.regions[0])
        for kept, array in zip(self._later, block.regions[1:], strict=True):
            kept.append(array)
        self._squared_error += block.squared_error
        self._squared_norm += block.squared_norm
        if job.stop < job.rows:
            return
        for region, kept in zip(tensor.regions[1:], self._later, strict=True):
            self.seek(region.offset)
            for array in kept:
                self.write(array)
        if tensor.scheme is not None:
            relative = self._squared_error / self._squared_norm if self._squared_norm else 0.0
            self.errors.append(TensorError(tensor.name, tensor.scheme, relative))

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
