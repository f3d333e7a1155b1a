"""The memory of a calibration is that of its text and of a few rows: the size of the model adds nothing."""

import tracemalloc
from pathlib import Path

import pytest

from edgephi.build.calibrating import quantised_prefix
from edgephi.build.calibrating.calibrate import calibrate
from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.checkpoint import open_checkpoint
from edgephi.declared.recipe import Quant
from edgephi.reference.layers import projection
from edgephi.steps import silent
from tests.tiny_checkpoint import TinyShape, write_tiny_checkpoint

SHAPE = TinyShape(hidden=256, ffn=256, heads=4, kv_heads=1)
QUANT = Quant("calibrated", 4, 32, head_bits=4)
PASSAGES = [list(range(start, start + 24)) for start in range(0, 192, 24)]


def peak_bytes(folder: Path, **changes: int) -> int:
    """The most that a calibration of a checkpoint of this shape, with some changes, holds at a time."""
    folder.mkdir()
    write_tiny_checkpoint(folder / "tiny", SHAPE, **changes)
    checkpoint = open_checkpoint(folder / "tiny", id="tiny", revision="local")
    plans = plan_tensors(checkpoint.architecture, QUANT, "zero points")
    tracemalloc.start()
    try:
        calibrate(checkpoint, plans, PASSAGES, folder / "codes", silent)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_it_is_flat_in_the_size_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised_prefix, "_BLOCK_WEIGHTS", 1 << 16)
    monkeypatch.setattr(projection, "WEIGHT_BLOCK_BYTES", 256 << 10)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)  # two workers' blocks
    peak_bytes(tmp_path / "imports", layers=1)  # these and caches are not the model's
    small = peak_bytes(tmp_path / "small", layers=1)
    assert small < 8 << 20
    more_layers = peak_bytes(tmp_path / "deep", layers=6)
    assert abs(more_layers - small) < 1 << 20  # five layers more weigh 7 MB
    more_words = peak_bytes(tmp_path / "wide", layers=1, vocab=4096)
    assert abs(more_words - small) < 1 << 20  # 3,584 rows of the head weigh 4 MB
