"""Heads of sizes that onnxruntime's attention does not take: refused before anything is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgephi.checkpoint.config import load_architecture
from edgephi.errors import NotSupportedError
from edgephi.export.onnx import exporter
from tests.export.onnx.artifacts import check, export, some_ids
from tests.tiny_checkpoint import TinyShape, write_tiny_checkpoint
from tests.tiny_phi3small import write_tiny_phi3small
from tests.tiny_phimoe import TinyExperts, write_tiny_phimoe

HEADS = 4


def phi3(folder: Path, hidden: int) -> Path:
    sizes = TinyShape(hidden=hidden, layers=1, heads=HEADS, kv_heads=2, ffn=64, std=0.2)
    return write_tiny_checkpoint(folder, sizes)


def phimoe(folder: Path, hidden: int) -> Path:
    sizes = TinyExperts(layers=1, hidden=hidden, heads=HEADS, ffn=64, experts=3, context=64)
    return write_tiny_phimoe(folder, sizes, original_context=64)


def phi3small(folder: Path, hidden: int) -> Path:
    return write_tiny_phi3small(folder, hidden=hidden, heads=HEADS, ffn=64, block=16, local_blocks=1)


def written(write: Callable[[Path, int], Path], folder: Path, size: int, rotated: float) -> Path:
    """A tiny checkpoint with heads of this size, so much of which is rotated."""
    tiny = write(folder, HEADS * size)
    config: dict[str, Any] = json.loads((tiny / "config.json").read_text())
    config |= {"partial_rotary_factor": rotated, "rope_scaling": None}
    (tiny / "config.json").write_text(json.dumps(config))
    return tiny


@pytest.mark.parametrize(
    ("write", "size", "rotated", "found"),
    [
        (phi3, 8, 1.0, "found 8 numbers$"),
        (phimoe, 40, 1.0, "found 40 numbers$"),
        (phi3small, 40, 1.0, "found 40 numbers$"),
        (phi3, 32, 0.75, "found 32 numbers, 24 of them rotated"),
        (phi3, 96, 0.75, "found 96 numbers, 72 of them rotated"),
    ],
)
def test_others_than_the_engine_takes_are_refused(
    write: Callable[[Path, int], Path], tmp_path: Path, size: int, rotated: float, found: str
) -> None:
    architecture = load_architecture(written(write, tmp_path / "tiny", size, rotated))
    with pytest.raises(NotSupportedError, match=f"on onnxruntime-genai: expected heads.* of 16 .*{found}"):
        exporter.check_architecture(architecture)


@pytest.mark.parametrize(
    ("write", "size", "rotated"),
    [(phi3, 16, 1.0), (phi3, 32, 0.5), (phimoe, 16, 1.0), (phimoe, 48, 1.0), (phi3small, 48, 1.0)],
)
def test_those_that_it_takes_are_computed(
    write: Callable[[Path, int], Path], tmp_path: Path, size: int, rotated: float
) -> None:
    tiny = written(write, tmp_path / "tiny", size, rotated)
    check(export(tiny, tmp_path / "model", context=64), some_ids(40, vocabulary=300), piece=40)
