"""Small checkpoints, what an engine may want of them, and the bytes that this gives."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgephi.checkpoint.weights.safetensors import ShardHeader, read_header
from edgephi.checkpoint.weights.source import Source
from edgephi.export.onnx.layout import pack, region_sizes
from edgephi.export.stream.one_pass import StreamReport, stream_tensors
from edgephi.export.stream.packed_tensor import PackedTensor, place
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan
from tests.tiny_checkpoint import FloatKind, write_safetensors

Floats = NDArray[np.float32]

PLAN, PLAIN = TensorPlan(Scheme(4, 32)), TensorPlan(None)
WIDTH = 128


@dataclass(frozen=True)
class Wanted:
    """A tensor as an engine wants it: its shape and what it is made of."""

    shape: tuple[int, ...]
    sources: tuple[Source, ...] = ()
    plan: TensorPlan = PLAN


def matrix(rows: int, columns: int = WIDTH, *, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32) * np.float32(0.02)


def one_after_the_other(*parts: tuple[str, int]) -> tuple[Source, ...]:
    """Whole tensors of so many rows, each below the one before."""
    found, end = [], 0
    for name, rows in parts:
        found.append(Source(name, range(rows), range(end, end + rows)))
        end += rows
    return tuple(found)


def write(folder: Path, *shards: Mapping[str, Floats], dtype: FloatKind = "BF16") -> list[ShardHeader]:
    """A file for each of `shards`, its tensors in the order given."""
    found = []
    for number, tensors in enumerate(shards):
        file = folder / f"{number}.safetensors"
        write_safetensors(file, [(name, dtype, each) for name, each in tensors.items()])
        found.append(read_header(file))
    return found


def laid_out(wanted: Mapping[str, Wanted]) -> dict[str, PackedTensor]:
    tensors, end = {}, 0
    for name, each in wanted.items():
        rows = (int(np.prod(each.shape[:-1])), each.shape[-1]) if len(each.shape) > 1 else each.shape
        regions = place(end, region_sizes(rows, each.plan.scheme))
        tensors[name] = PackedTensor(name, each.shape, each.plan, regions, sources=each.sources)
        end = regions[-1].offset + regions[-1].size
    return tensors


def streamed(
    folder: Path, shards: Sequence[ShardHeader], wanted: Mapping[str, Wanted]
) -> tuple[bytes, StreamReport]:
    """The data file, whose hashes and whose inputs' hashes are right, and the report."""
    with (folder / "out").open("wb") as file:
        report = stream_tensors(shards, laid_out(wanted).values(), pack, file, threads=2)
    data = (folder / "out").read_bytes()
    assert report.data_sha256 == hashlib.sha256(data).hexdigest()
    for shard in shards:
        assert report.input_sha256[shard.file.name] == hashlib.sha256(shard.file.read_bytes()).hexdigest()
    return data, report


def joined(folder: Path, tensors: Mapping[str, Floats], wanted: Mapping[str, Wanted]) -> bytes:
    """The data file of a checkpoint that has the tensors as they are wanted."""
    whole: dict[str, Floats] = {}
    for name, each in wanted.items():
        whole[name] = np.empty(each.shape, np.float32)
        rows = whole[name].reshape(-1, each.shape[-1] if len(each.shape) > 1 else 1)
        for source in laid_out({name: each})[name].made_of:
            given = tensors[source.tensor]
            taken = given.reshape(len(rows) if given.ndim == 1 else -1, rows.shape[1])[list(source.rows)]
            rows[list(source.into)] = taken
    (folder / "joined").mkdir()
    plain = {name: Wanted(each.shape, (), each.plan) for name, each in wanted.items()}
    return streamed(folder / "joined", write(folder / "joined", whole), plain)[0]


@contextlib.contextmanager
def counted_bytes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """What is read of files by place."""
    counts: list[int] = []
    preadv = os.preadv

    def counting(*arguments: object) -> int:
        counts.append(preadv(*arguments))  # type: ignore[arg-type]
        return counts[-1]

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", counting)
        yield counts


def tensor_bytes(shards: Sequence[ShardHeader]) -> int:
    return sum(entry.size for shard in shards for entry in shard.entries)
