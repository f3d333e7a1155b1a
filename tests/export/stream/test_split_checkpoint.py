"""A checkpoint that keeps projections apart, under other names, gives what the fused one gives."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.checkpoint import Checkpoint, open_checkpoint, read_rows
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.checkpoint.weights.safetensors import read_header
from edgephi.checkpoint.weights.source import Source
from edgephi.declared.target import read_target
from edgephi.export.exporter import exporter
from tests.portable import portable
from tests.tiny_checkpoint import TinyShape, tiny_weights, write_safetensors, write_tiny_checkpoint

TINY = TinyShape(layers=2, hidden=64, ffn=96, kv_heads=2)
HEAD = TINY.hidden // TINY.heads
PARTS = {
    Role.QUERY_KEY_VALUE: {"q": TINY.hidden, "k": TINY.kv_heads * HEAD, "v": TINY.kv_heads * HEAD},
    Role.GATE_UP: {"gate": TINY.ffn, "up": TINY.ffn},
}
"""The rows of what a Llama's checkpoint holds for one tensor of ours."""


def parts(tensor: ModelTensor) -> Iterator[Source]:
    end = 0
    for name, rows in PARTS[tensor.role].items():
        yield Source(f"layers.{tensor.layer}.{name}", range(rows), range(end, end + rows))
        end += rows


@pytest.fixture
def fused(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(write_tiny_checkpoint(tmp_path / "tiny", TINY), id="tiny", revision="local")


@pytest.fixture
def split(tmp_path: Path, fused: Checkpoint) -> Checkpoint:
    weights = tiny_weights(TINY)
    sources = dict(fused.sources)
    for tensor, (whole,) in fused.sources.items():
        if tensor.role in PARTS:
            matrix = weights.pop(whole.tensor)
            sources[tensor] = tuple(parts(tensor))
            weights.update({own.tensor: matrix[own.into.start : own.into.stop] for own in sources[tensor]})
    file = tmp_path / "split.safetensors"
    write_safetensors(file, [(name, "BF16", array) for name, array in weights.items()])
    header = read_header(file)
    tensors = {entry.name: entry for entry in header.entries}
    return dataclasses.replace(fused, shards=(header,), tensors=tensors, sources=sources)


def test_rows_are_the_same(fused: Checkpoint, split: Checkpoint) -> None:
    for tensor, shape in fused.architecture.tensor_shapes().items():
        for start, stop in ((0, shape[0]), (0, 1), (shape[0] // 3, shape[0] - 1), (5, 5)):
            expected = read_rows(fused, tensor, start, stop)
            np.testing.assert_array_equal(read_rows(split, tensor, start, stop), expected, strict=True)


@pytest.mark.parametrize("target", ["cpu", "openvino", "mlx", "gguf"])
def test_artifacts_are_the_same(tmp_path: Path, fused: Checkpoint, split: Checkpoint, target: str) -> None:
    """The weights lie in the order of `sources`, so that of both is the same here."""
    engine = exporter(read_target(target).engine)
    plans = plan_tensors(fused.architecture, portable(group_size=32))
    found = []
    for number, checkpoint in enumerate((fused, split)):
        folder = tmp_path / str(number)
        folder.mkdir()
        engine.write_artifact(folder, checkpoint, plans, read_target(target), 64)
        found.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert found[0] == found[1]
