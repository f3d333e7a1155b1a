"""What is read of a checkpoint, in the order in which the artifact is written.

An artifact is written and hashed from start to end, so its order decides. The sha256 of a shard needs the
shard's own order: while the one follows the other, as in every checkpoint that lies as its engine wants it,
what is read is hashed on the way, and the bytes that nobody wants are read for the hash alone. A shard that
is read out of its order is hashed in a second read, after all that is written.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from edgephi.checkpoint.weights.safetensors import ShardHeader, TensorEntry
from edgephi.export.stream.packed_tensor import PackedTensor, row_count

# Weights in one block. Large enough that its NumPy calls outweigh the hand-over between threads: 2**19 take a
# tenth longer. Small enough that the blocks in flight take some 30 MB.
BLOCK_WEIGHTS = 1 << 20

_END = 1 << 62  # past the last byte of any file


@dataclass(frozen=True)
class Read:
    """Rows of one tensor of the checkpoint: `row_bytes` each, the first at byte `start` of the tensor's file.

    `stride` bytes lie between the starts of two of them; `into` are the rows of the block that they become.
    """

    entry: TensorEntry
    start: int
    row_bytes: int
    stride: int
    into: range

    @property
    def size(self) -> int:
        """Bytes that are read."""
        return self.row_bytes * len(self.into)

    @property
    def rows(self) -> range:
        """Which rows of the checkpoint's tensor these are."""
        first, step = (self.start - self.entry.start) // self.row_bytes, self.stride // self.row_bytes
        return range(first, first + len(self.into) * step, step)

    @property
    def in_one_piece(self) -> bool:
        """Whether the rows lie one after the other."""
        return self.stride == self.row_bytes or len(self.into) == 1


@dataclass(frozen=True)
class Job:
    """Rows `start` to `stop` of a packed tensor, or bytes that are only hashed: then `tensor` is None."""

    tensor: PackedTensor | None
    start: int
    stop: int
    reads: tuple[Read, ...]


class Reads:
    """All that is read of `shards` to write `tensors` in the order given, and to hash every shard.

    Tensors of the checkpoint that are no source are only hashed. `twice` are the files that are hashed in a
    read of their own. Without `hashed` nothing is, and nothing else is read.
    """

    def __init__(
        self, shards: Sequence[ShardHeader], tensors: Iterable[PackedTensor], *, hashed: bool = True
    ) -> None:
        self._hashed = hashed
        self._shards = {shard.file: shard for shard in shards}
        self._entries = {entry.name: entry for shard in shards for entry in shard.entries}
        self._tensors = tuple(tensors)
        self.twice = _out_of_order(self._blocks()) if hashed else frozenset()

    @property
    def size(self) -> int:
        """Bytes of all reads: those of the checkpoint's tensors, and of some of them a second time."""
        if not self._hashed:
            return sum(read.size for job in self._blocks() for read in job.reads)
        again = (read for job in self._blocks() for read in job.reads if read.entry.file in self.twice)
        return sum(entry.size for entry in self._entries.values()) + sum(read.size for read in again)

    def jobs(self) -> Iterator[Job]:
        """The blocks of the tensors in their order, and before and after them what is only hashed."""
        if not self._hashed:
            yield from self._blocks()
            return
        hashed = dict.fromkeys(self._shards, 0)  # up to which byte of each file
        for job in self._blocks():
            for read in job.reads:
                file = read.entry.file
                if file not in self.twice:
                    yield from _only_hashed(self._shards[file], hashed[file], read.start)
                    hashed[file] = read.start + read.size
            yield job
        for file, shard in self._shards.items():
            yield from _only_hashed(shard, hashed[file], _END)

    def is_hashed(self, job: Job, read: Read) -> bool:
        """Whether a read of a job gives the next bytes of its file's hash."""
        return self._hashed and (job.tensor is None or read.entry.file not in self.twice)

    def _blocks(self) -> Iterator[Job]:
        for tensor in self._tensors:
            step = max(1, BLOCK_WEIGHTS // tensor.shape[-1]) if len(tensor.shape) > 1 else tensor.rows
            for start in range(0, tensor.rows, step):
                stop = min(start + step, tensor.rows)
                yield Job(tensor, start, stop, tuple(self._reads(tensor, start, stop)))

    def _reads(self, tensor: PackedTensor, start: int, stop: int) -> Iterator[Read]:
        """What rows `start` to `stop` of a packed tensor are made of."""
        for source in tensor.made_of:
            rows, into = source.within(start, stop)
            if rows:
                entry = self._entries[source.tensor]
                row_bytes = entry.size // row_count(entry.shape)
                yield Read(
                    entry,
                    start=entry.start + rows.start * row_bytes,
                    row_bytes=row_bytes,
                    stride=row_bytes * rows.step,
                    into=range(into.start - start, into.stop - start, into.step),
                )


def _out_of_order(blocks: Iterable[Job]) -> frozenset[Path]:
    """The files whose bytes the blocks do not take in the order in which they lie there."""
    found: set[Path] = set()
    ends: dict[Path, int] = {}
    for job in blocks:
        begun: set[Path] = set()
        for read in job.reads:
            file = read.entry.file
            end = ends.get(file, 0)
            # What is only hashed is read between blocks, so there is no place for it within one.
            follows = read.start == end if file in begun else read.start >= end
            if not (follows and read.in_one_piece):
                found.add(file)
            begun.add(file)
            ends[file] = read.start + read.size
    return frozenset(found)


def _only_hashed(shard: ShardHeader, start: int, stop: int) -> Iterator[Job]:
    """Jobs for the bytes of a shard's tensors that lie between two bytes of its file."""
    step = 2 * BLOCK_WEIGHTS
    first = bisect_right(shard.entries, start, key=lambda entry: entry.start + entry.size)
    for entry in islice(shard.entries, first, None):
        if entry.start >= stop:
            return
        for begin in range(max(start, entry.start), min(stop, entry.start + entry.size), step):
            size = min(step, entry.start + entry.size - begin, stop - begin)
            yield Job(None, 0, 0, (Read(entry, begin, size, size, range(1)),))
