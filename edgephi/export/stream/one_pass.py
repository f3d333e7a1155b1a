"""The one pass over a checkpoint: read a few rows, quantise, pack, write, hash. Engine-neutral.

Worker threads read blocks of rows and have them quantised, each by a process of its own where there is
enough to do; the calling thread takes the results in order, hashes the input and the output, and writes.
Only as many blocks are in flight as there are workers plus a few, so memory does not depend on the model's
size.
"""

import contextlib
import hashlib
import math
import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgephi.bundle.chunks import cut
from edgephi.checkpoint.adapter.low_rank import Changes, changed
from edgephi.checkpoint.finite import not_finite
from edgephi.checkpoint.weights.safetensors import ShardHeader, TensorEntry, open_shard, read_into, to_float32
from edgephi.export.stream.data_file import DataFile, TensorError
from edgephi.export.stream.packed_tensor import PackedTensor, Region
from edgephi.export.stream.quantized_block import Pack, QuantizedBlock
from edgephi.export.stream.quantizers import Quantizers, worth_processes
from edgephi.export.stream.reads import Job, Read, Reads
from edgephi.quantize.groups import ErrorSums, NotFiniteError
from edgephi.steps import Step, silent


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


def stream_tensors(
    shards: Sequence[ShardHeader],
    tensors: Collection[PackedTensor],
    pack: Pack,
    file: BinaryIO,
    *,
    changes: Changes = MappingProxyType({}),
    preamble: bytes = b"",
    lookup_tables: Sequence[tuple[Region, NDArray[np.generic]]] = (),
    step: Step = silent,
    step_name: str = "quantise and export",
    hashed: bool = True,
    threads: int | None = None,
    processes: bool | None = None,
) -> StreamReport:
    """Write the artifact's data to `file` and report on it.

    The regions of `tensors` must lie in the order of `tensors`; where their sources follow each other in that
    order too, every byte of `shards` is read once, else those of some shards a second time, for their hash.
    Tensors of the checkpoint that are no source are only hashed. `changes` are what adapters add to some, by
    their names. `preamble` (a format's header) comes first, and `lookup_tables` come last; offsets count from
    the start of the file. It is a `step` of that name, in bytes that are read. Without `hashed` only what the
    tensors are made of is read, and the report has no hash of a shard. `threads` defaults to the processors
    we may use; `processes` says whether each of them has its weights quantised by a process, which large
    checkpoints have by default.

    Raises BadCheckpointError when a file is shorter than its header says, or a weight is not finite.
    """
    workers = threads or available_processors()
    regions = [region for tensor in tensors for region in tensor.regions]
    regions += [region for region, _ in lookup_tables]
    size = max([len(preamble), *(region.offset + region.size for region in regions)])
    out = DataFile(file, cut(size, [region.offset for region in regions]))
    out.write(np.frombuffer(preamble, np.uint8))
    reads = Reads(shards, tensors, hashed=hashed)
    digests = {shard.file: hashlib.sha256(shard.raw) for shard in shards}
    if processes is None:
        processes = worth_processes(_quantised_weights(tensors))
    # The pool is left first: no worker may read from a descriptor that is closed already.
    with (
        step(step_name, reads.size) as done,
        contextlib.ExitStack() as open_files,
        Quantizers(processes) as quantizers,
        ThreadPoolExecutor(workers, "quantise") as pool,
    ):
        descriptors = {shard.file: open_shard(shard.file) for shard in shards}
        for descriptor in descriptors.values():
            open_files.callback(os.close, descriptor)
        work = (
            (job, pool.submit(_work, descriptors, job, changes, pack, quantizers)) for job in reads.jobs()
        )
        for job, block in _in_order(work, ahead=workers + 2):
            for read, raw in zip(job.reads, block.raw, strict=True):
                if reads.is_hashed(job, read):
                    digests[read.entry.file].update(raw.data)
            if job.tensor is not None:
                out.take(job.tensor, job, block.packed)
            done(sum(raw.nbytes for raw in block.raw))
    for region, table in lookup_tables:
        out.seek(region.offset)
        out.write(table)
    return StreamReport(
        {shard.name: digests[shard.file].hexdigest() for shard in shards if hashed},
        Path(file.name).name,
        out.position,
        out.hexdigest(),
        out.chunks.table(),
        tuple(out.errors),
    )


def available_processors() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class _Block:
    """What a worker made of a job: the bytes of each of its reads, and what they become in the artifact."""

    raw: tuple[NDArray[np.uint8], ...]
    packed: QuantizedBlock


_NOTHING = QuantizedBlock((), ErrorSums())


def _in_order(work: Iterator[tuple[Job, Future[_Block]]], *, ahead: int) -> Iterator[tuple[Job, _Block]]:
    """The finished jobs in the order in which they were begun, at most `ahead` of them under way."""
    waiting: deque[tuple[Job, Future[_Block]]] = deque()
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


def _work(
    descriptors: Mapping[Path, int], job: Job, changes: Changes, pack: Pack, quantizers: Quantizers
) -> _Block:
    """In a worker: read the rows of a job, change them, have them quantised and packed."""
    raw = tuple(_bytes_of(read, descriptors[read.entry.file]) for read in job.reads)
    if job.tensor is None:
        return _Block(raw, _NOTHING)
    rows, dtype = _joined(job, tuple(map(partial(_changed, changes), job.reads, raw)))
    plan = job.tensor.plan.of_rows(job.start, job.stop)
    if job.tensor.scheme is None:
        # The value that overflows a smaller type is infinite there: it must not come through either.
        with np.errstate(over="ignore"):
            values = to_float32(rows, dtype)
            if len(job.tensor.shape) > 1:
                values = values.reshape(job.stop - job.start, -1)
            plain = plan.factored(values).astype(job.tensor.plain_dtype, copy=False)
        if not np.isfinite(plain).all():
            kind = np.dtype(job.tensor.plain_dtype).name
            raise not_finite(_largest(job, raw), f"NaN or infinity, or a value past {kind}'s range")
        return _Block(raw, QuantizedBlock((plain,), ErrorSums()))
    try:
        packed = quantizers.mine().quantize(rows, dtype, job.stop - job.start, plan, pack)
    except NotFiniteError as cause:
        raise not_finite(_largest(job, raw), str(cause)) from None
    return _Block(raw, packed)


def _bytes_of(read: Read, descriptor: int) -> NDArray[np.uint8]:
    """The bytes of a read, row after row."""
    rows = np.empty((len(read.into), read.row_bytes), np.uint8)
    if read.in_one_piece:
        read_into(descriptor, rows, read.start, file=read.entry.file)
    else:
        for number, row in enumerate(rows):
            read_into(descriptor, row, read.start + number * read.stride, file=read.entry.file)
    return rows.reshape(-1)


def _changed(changes: Changes, read: Read, raw: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], str]:
    """What becomes of the bytes of a read, and their dtype: F32 where an adapter changes the tensor."""
    own = changes.get(read.entry.name)
    if own is None:
        return raw, read.entry.dtype
    values = to_float32(raw, read.entry.dtype).reshape(len(read.into), -1)
    return changed(values, read.rows, own).reshape(-1).view(np.uint8), "F32"


def _joined(job: Job, read: tuple[tuple[NDArray[np.uint8], str], ...]) -> tuple[NDArray[np.uint8], str]:
    """The rows of a block as bytes, each where it belongs, and their dtype: F32 when its sources differ."""
    (_, first), *others = read
    if not others:
        return read[0]
    if any(dtype != first for _, dtype in others):
        read = tuple((to_float32(raw, dtype).view(np.uint8), "F32") for raw, dtype in read)
        first = "F32"
    rows = np.empty((job.stop - job.start, read[0][0].size // len(job.reads[0].into)), np.uint8)
    for each, (own, _) in zip(job.reads, read, strict=True):
        rows[each.into.start : each.into.stop : each.into.step] = own.reshape(len(each.into), -1)
    return rows.reshape(-1), first


def _largest(job: Job, raw: tuple[NDArray[np.uint8], ...]) -> TensorEntry:
    """The tensor among a block's sources that has the largest weight, or one that is not a number."""
    peaks = [
        np.abs(to_float32(own, read.entry.dtype)).max() for read, own in zip(job.reads, raw, strict=True)
    ]
    return job.reads[int(np.argmax(peaks))].entry  # to NumPy nothing is larger than NaN
