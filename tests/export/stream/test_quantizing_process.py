"""Quantising in processes: the same bytes as in threads, nothing left behind, an error when one dies."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from edgephi.errors import BadCheckpointError, DoesNotFitError
from edgephi.export.gguf import blocks as gguf
from edgephi.export.mlx import layout as mlx
from edgephi.export.onnx.layout import pack, region_sizes
from edgephi.export.openvino import layout as openvino
from edgephi.export.stream.one_pass import StreamReport, stream_tensors
from edgephi.export.stream.quantized_block import BlockQuantizer, Pack
from edgephi.export.stream.quantizing_process import QuantizingProcess
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan
from tests.export.stream.test_one_pass import PLANS, laid_out, weights, write

ROWS, COLUMNS = 24, 256
PACKS: dict[str, tuple[Pack, TensorPlan]] = {
    "onnx": (pack, TensorPlan(Scheme(4, 128, symmetric=False))),
    "openvino": (openvino.pack, TensorPlan(Scheme(4, 128))),
    "mlx": (partial(mlx.pack, float_type=np.dtype(np.float16)), TensorPlan(Scheme(4, 64))),
    "gguf": (gguf.pack, TensorPlan(Scheme(4, 32))),
    "gguf-8": (gguf.pack, TensorPlan(Scheme(8, 32), "rtn")),
}


def streamed(folder: Path, *, processes: bool) -> tuple[bytes, StreamReport]:
    shards = write(folder, weights())
    with (folder / "out").open("wb") as file:
        report = stream_tensors(shards, laid_out(shards, PLANS).values(), pack, file, processes=processes)
    return (folder / "out").read_bytes(), report


def own_processes() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "quantizing_process" in " ".join(each.cmdline())]


class TestOneBlock:
    @pytest.mark.parametrize("name", list(PACKS))
    def test_comes_back_as_it_is_made_here(self, name: str) -> None:
        packer, plan = PACKS[name]
        numbers = np.random.default_rng(1).standard_normal((ROWS, COLUMNS), np.float32)
        process = QuantizingProcess()
        try:
            for dtype, raw in (("F32", numbers), ("F16", numbers.astype(np.float16))):
                arguments = raw.reshape(-1).view(np.uint8), dtype, ROWS, plan, packer
                there, here = process.quantize(*arguments), BlockQuantizer().quantize(*arguments)
                assert len(there.regions) == len(here.regions)
                for ours, theirs in zip(there.regions, here.regions, strict=True):
                    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
                    assert ours.tobytes() == theirs.tobytes()
                assert there.sums == here.sums
        finally:
            process.close()


class TestStream:
    def test_writes_the_same_bytes_and_report(self, tmp_path: Path) -> None:
        assert streamed(tmp_path, processes=True) == streamed(tmp_path, processes=False)

    def test_no_process_or_descriptor_stays_behind(self, tmp_path: Path) -> None:
        before = len(os.listdir("/dev/fd"))  # noqa: PTH208 - a listing, not paths
        streamed(tmp_path, processes=True)
        assert own_processes() == []
        assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208

    def test_a_weight_that_is_not_finite_is_named(self, tmp_path: Path) -> None:
        tensors = weights()
        tensors["first"][3, 5] = np.nan
        shards = write(tmp_path, tensors)
        with (tmp_path / "out").open("wb") as file, pytest.raises(BadCheckpointError, match="tensor first"):
            stream_tensors(shards, laid_out(shards, PLANS).values(), pack, file, processes=True)
        assert own_processes() == []


class TestOneThatDies:
    def test_is_an_error_that_says_so(self) -> None:
        process = QuantizingProcess()
        try:
            (running,) = own_processes()
            running.kill()
            block = np.zeros((ROWS, COLUMNS), np.float32).reshape(-1).view(np.uint8)
            with pytest.raises(DoesNotFitError, match=r"found that it was killed by signal 9"):
                process.quantize(block, "F32", ROWS, TensorPlan(Scheme(4, 32)), gguf.pack)
        finally:
            process.close()

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_none_outlives_the_builder(self, number: signal.Signals) -> None:
        script = (
            "import time\n"
            "from edgephi.export.stream.quantizing_process import QuantizingProcess\n"
            "QuantizingProcess(); print('ready', flush=True); time.sleep(60)"
        )
        command = [sys.executable, "-c", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as builder:
            assert builder.stdout is not None and builder.stdout.readline() == b"ready\n"
            (child,) = psutil.Process(builder.pid).children()
            builder.send_signal(number)
            builder.wait(10)
        end = time.monotonic() + 10
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end, "it still runs"
            time.sleep(0.05)


def test_the_regions_are_those_that_are_laid_out() -> None:
    """What a pack returns is as large as the exporter's layout says, whoever computed it."""
    scheme = Scheme(4, 128, symmetric=False)
    raw = np.zeros((ROWS, COLUMNS), np.float32).reshape(-1).view(np.uint8)
    block = BlockQuantizer().quantize(raw, "F32", ROWS, TensorPlan(scheme), pack)
    assert tuple(region.nbytes for region in block.regions) == region_sizes((ROWS, COLUMNS), scheme)
