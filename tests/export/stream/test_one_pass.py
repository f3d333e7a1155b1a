"""The one pass: the same bytes and hashes however it is cut, flat memory, and damage that is named."""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgephi.bundle.chunks import FileEntry, chunks_of
from edgephi.checkpoint.weights.safetensors import ShardHeader, read_header
from edgephi.errors import BadCheckpointError
from edgephi.export.onnx.layout import pack, region_sizes
from edgephi.export.stream import reads
from edgephi.export.stream.one_pass import StreamReport, stream_tensors
from edgephi.export.stream.packed_tensor import ALIGNMENT, PackedTensor, Region, place
from edgephi.quantize.groups import restored
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan
from tests.tiny_checkpoint import FloatKind, write_safetensors

Floats = NDArray[np.float32]

SEARCHED = TensorPlan(Scheme(4, 32))
PLAIN = TensorPlan(None)
PLANS = {
    "embedding": TensorPlan(Scheme(8, 64), "rtn"),
    "norm": PLAIN,
    "first": SEARCHED,
    "second": TensorPlan(Scheme(4, 128, symmetric=False)),
}
UNUSED = "rotary.inv_freq"


def weights() -> dict[str, Floats]:
    rng = np.random.default_rng(0)
    shapes = {"embedding": (300, 256), "norm": (256,), UNUSED: (7,), "first": (64, 640), "second": (513, 256)}
    return {name: rng.standard_normal(shape, np.float32) * np.float32(0.02) for name, shape in shapes.items()}


def write(folder: Path, tensors: dict[str, Floats], dtype: FloatKind = "BF16") -> list[ShardHeader]:
    """Two shards of `tensors`, cut in the middle."""
    names = list(tensors)
    cuts = {"a.safetensors": names[:3], "b.safetensors": names[3:]}
    for file, own in cuts.items():
        write_safetensors(folder / file, [(name, dtype, tensors[name]) for name in own])
    return [read_header(folder / file) for file in cuts]


def laid_out(shards: list[ShardHeader], plans: dict[str, TensorPlan]) -> dict[str, PackedTensor]:
    tensors, end = {}, 0
    for entry in (entry for shard in shards for entry in shard.entries):
        if entry.name in plans:
            plan = plans[entry.name]
            regions = place(end, region_sizes(entry.shape, plan.scheme))
            tensors[entry.name] = PackedTensor(entry.name, entry.shape, plan, regions)
            end = regions[-1].offset + regions[-1].size
    return tensors


def streamed(
    folder: Path, shards: list[ShardHeader], *, threads: int | None = None
) -> tuple[bytes, StreamReport]:
    with (folder / "out").open("wb") as file:
        report = stream_tensors(shards, laid_out(shards, PLANS).values(), pack, file, threads=threads)
    return (folder / "out").read_bytes(), report


class TestBytes:
    @pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
    def test_the_same_whatever_the_threads_and_blocks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: FloatKind
    ) -> None:
        shards = write(tmp_path, weights(), dtype)
        data, report = streamed(tmp_path, shards, threads=1)
        for threads, block in [(1, 1), (2, 256), (3, 999), (8, 5000), (2, 1 << 30)]:
            monkeypatch.setattr(reads, "BLOCK_WEIGHTS", block)
            again, other = streamed(tmp_path, shards, threads=threads)
            assert again == data, (threads, block)
            assert other.input_sha256 == report.input_sha256
            assert other.data_sha256 == report.data_sha256
            for ours, theirs in zip(other.errors, report.errors, strict=True):
                assert (ours.name, ours.scheme) == (theirs.name, theirs.scheme)
                assert ours.relative_squared_error == pytest.approx(theirs.relative_squared_error, rel=1e-5)

    def test_regions_hold_what_the_quantiser_made(self, tmp_path: Path) -> None:
        shards = write(tmp_path, weights(), "F32")
        data, _ = streamed(tmp_path, shards)
        for name, tensor in laid_out(shards, PLANS).items():
            expected: tuple[NDArray[np.generic], ...] = (weights()[name],)
            if tensor.scheme is not None:
                expected = pack(Quantizer().quantize(weights()[name], tensor.plan), tensor.scheme)
            for region, array in zip(tensor.regions, expected, strict=True):
                assert data[region.offset : region.offset + region.size] == array.tobytes(), name

    def test_between_the_regions_lie_zeros(self, tmp_path: Path) -> None:
        shards = write(tmp_path, weights())
        data, report = streamed(tmp_path, shards)
        regions = [region for tensor in laid_out(shards, PLANS).values() for region in tensor.regions]
        end = 0
        for region in regions:
            assert region.offset % ALIGNMENT == 0
            assert not any(data[end : region.offset])
            end = region.offset + region.size
        assert report.data_size == len(data) == end

    def test_lookup_tables_come_last(self, tmp_path: Path) -> None:
        shards = write(tmp_path, weights())
        tensors = laid_out(shards, PLANS)
        last = list(tensors.values())[-1].regions[-1]
        table = np.arange(10, dtype=np.float32)
        [region] = place(last.offset + last.size, [table.nbytes])
        with (tmp_path / "out").open("wb") as file:
            report = stream_tensors(shards, tensors.values(), pack, file, lookup_tables=[(region, table)])
        data = (tmp_path / "out").read_bytes()
        assert data[region.offset :] == table.tobytes()
        assert report.data_sha256 == hashlib.sha256(data).hexdigest()

    def test_regions_that_overlap_are_a_bug_of_ours(self, tmp_path: Path) -> None:
        shards = write(tmp_path, weights())
        tensors = laid_out(shards, PLANS)
        norm = tensors["norm"]
        tensors["norm"] = PackedTensor(norm.name, norm.shape, PLAIN, (Region(0, norm.regions[0].size),))
        with (tmp_path / "out").open("wb") as file, pytest.raises(AssertionError, match="overlaps"):
            stream_tensors(shards, tensors.values(), pack, file)

    @given(st.integers(0, 1 << 40), st.lists(st.integers(1, 1 << 33), min_size=1))
    def test_places_are_aligned_and_apart(self, start: int, sizes: list[int]) -> None:
        regions = place(start, sizes)
        assert [region.size for region in regions] == sizes
        end = start
        for region in regions:
            assert region.offset % ALIGNMENT == 0
            assert end <= region.offset < end + ALIGNMENT
            end = region.offset + region.size


class TestReport:
    def test_chunks_begin_with_tensors_and_are_hashed(self, tmp_path: Path) -> None:
        tensors = {name: np.zeros((3, 256), np.float32) for name in ("small", "smaller")}
        tensors["large"] = np.random.default_rng(0).standard_normal((9000, 256), np.float32)
        tensors["last"] = tensors["small"]
        shards = write(tmp_path, tensors)
        plans = dict.fromkeys(tensors, TensorPlan(Scheme(8, 64), "rtn"))
        layout = laid_out(shards, plans)
        with (tmp_path / "out").open("wb") as file:
            report = stream_tensors(shards, layout.values(), pack, file)
        data = (tmp_path / "out").read_bytes()
        entry = FileEntry("out", report.data_size, report.data_sha256, report.data_chunks)
        chunks = chunks_of(entry)
        codes, scales = layout["large"].regions
        # The codes take 2.2 MiB: what is left after two chunks is no half. All that follows fits into one.
        begins = [0, codes.offset, codes.offset + (1 << 20), scales.offset]
        assert [chunk.offset for chunk in chunks] == begins
        assert [chunk.sha256 for chunk in chunks] == [
            hashlib.sha256(data[chunk.offset : chunk.offset + chunk.size]).hexdigest() for chunk in chunks
        ]
        assert sum(chunk.size for chunk in chunks) == len(data)

    def test_hashes_are_those_of_the_files(self, tmp_path: Path) -> None:
        data, report = streamed(tmp_path, write(tmp_path, weights()))
        assert report.data_file == "out"
        assert report.data_size == len(data)
        assert report.data_sha256 == hashlib.sha256(data).hexdigest()
        assert report.input_sha256 == {
            file: hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
            for file in ("a.safetensors", "b.safetensors")
        }

    def test_tensors_that_are_not_asked_for_are_only_hashed(self, tmp_path: Path) -> None:
        broken = weights()
        broken[UNUSED][:] = np.nan  # nobody computes with it
        names = list(broken)
        write(tmp_path, broken)
        data, report = streamed(tmp_path, [read_header(tmp_path / f"{x}.safetensors") for x in "ab"])
        digest = hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
        assert report.input_sha256["a.safetensors"] == digest
        assert UNUSED in names
        assert UNUSED not in [error.name for error in report.errors]
        assert data == streamed(tmp_path, write(tmp_path, weights()))[0]

    def test_errors_are_those_of_each_quantised_tensor(self, tmp_path: Path) -> None:
        _, report = streamed(tmp_path, write(tmp_path, weights(), "F32"))
        assert [error.name for error in report.errors] == ["embedding", "first", "second"]
        for error in report.errors:
            groups = Quantizer().quantize(weights()[error.name], PLANS[error.name])
            expected = groups.sums.squared_error / groups.sums.squared_norm
            assert error.relative_squared_error == pytest.approx(expected, rel=1e-4)
            assert error.weighted_squared_error is error.weighted_relative_squared_error is None
            assert error.weights == weights()[error.name].size
            assert error.bytes == sum(region_sizes(weights()[error.name].shape, error.scheme))

    def test_weighted_errors_are_those_of_the_outputs(self, tmp_path: Path) -> None:
        """What inputs that have nothing to do with each other find in the product, as its squared error."""
        shards = write(tmp_path, weights(), "F32")
        name, original = "first", weights()["first"]
        importance = np.exp(np.random.default_rng(1).standard_normal(original.shape[1], np.float32))
        plan = replace(PLANS[name], method="weighted", importance=importance)
        (tensor,) = laid_out(shards, {name: plan}).values()
        with (tmp_path / "out").open("wb") as file:
            report = stream_tensors(shards, [tensor], pack, file)
        stored = restored(Quantizer().quantize(original, plan), plan.quantised)
        output_error = float((np.square(stored - original) @ importance).sum())
        output = float((np.square(original) @ importance).sum())
        (error,) = report.errors
        assert error.weighted_squared_error == pytest.approx(output_error, rel=1e-4)
        assert error.weighted_relative_squared_error == pytest.approx(output_error / output, rel=1e-4)
        assert error.weighted_relative_squared_error != error.relative_squared_error

    def test_a_tensor_of_zeros_has_no_error(self, tmp_path: Path) -> None:
        zeros = weights()
        zeros["first"][:] = 0
        _, report = streamed(tmp_path, write(tmp_path, zeros))
        assert {error.name: error.relative_squared_error for error in report.errors}["first"] == 0

    @pytest.mark.parametrize("threads", [1, 3])
    def test_is_a_step_that_counts_every_byte_of_the_tensors(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
    ) -> None:
        monkeypatch.setattr(reads, "BLOCK_WEIGHTS", 1000)
        shards = write(tmp_path, weights())
        size = sum(entry.size for shard in shards for entry in shard.entries)
        counted: list[int] = []

        @contextlib.contextmanager
        def step(title: str, expected: int) -> Iterator[Callable[[int], None]]:
            assert (title, expected) == ("quantise and export", size)
            yield counted.append

        stream_tensors(shards, laid_out(shards, PLANS).values(), pack, _named(), step=step, threads=threads)
        assert sum(counted) == size
        assert len(counted) > 100


def _named() -> io.BytesIO:
    file = io.BytesIO()
    file.name = "memory"
    return file


class TestDamage:
    @pytest.mark.parametrize("kept", [2000, 100_000, -1])
    def test_a_file_that_ends_early(self, tmp_path: Path, kept: int) -> None:
        shards = write(tmp_path, weights())
        file = tmp_path / "b.safetensors"
        os.truncate(file, kept if kept > 0 else file.stat().st_size + kept)
        with pytest.raises(BadCheckpointError, match=r"b\.safetensors: .*before the end of the file"):
            streamed(tmp_path, shards)

    @pytest.mark.parametrize("name", list(PLANS))
    @pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
    def test_a_weight_that_is_not_finite(self, tmp_path: Path, name: str, broken: float) -> None:
        tensors = weights()
        tensors[name].reshape(-1)[-1] = broken
        with pytest.raises(BadCheckpointError) as caught:
            streamed(tmp_path, write(tmp_path, tensors, "F32"))
        assert f"tensor {name}: expected finite weights, found NaN" in caught.value.message
        assert caught.value.exit_code == 4
        assert "\n" not in caught.value.message

    def test_a_weight_too_large_for_any_scale(self, tmp_path: Path) -> None:
        tensors = weights()
        tensors["first"][3, 5] = 1e30
        with pytest.raises(BadCheckpointError, match=r"tensor first: .*past float16's range"):
            streamed(tmp_path, write(tmp_path, tensors, "F32"))

    def test_no_thread_or_file_stays_behind(self, tmp_path: Path) -> None:
        tensors = weights()
        tensors["embedding"][0, 0] = np.nan
        shards = write(tmp_path, tensors)
        before = list(_open_files())
        with pytest.raises(BadCheckpointError):
            streamed(tmp_path, shards)
        assert list(_open_files()) == before


def _open_files() -> Iterator[str]:
    yield from sorted(str(path.resolve()) for path in Path("/dev/fd").iterdir() if path.exists())


EXPORT = """
import json, sys
from pathlib import Path
from edgephi.checkpoint.weights.safetensors import read_header
from edgephi.export.onnx.layout import pack, region_sizes
from edgephi.export.stream.one_pass import stream_tensors
from edgephi.export.stream.packed_tensor import PackedTensor, place
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan

plan, tensors, end = TensorPlan(Scheme(4, 128)), {}, 0
shard = read_header(Path(sys.argv[1]))
for entry in shard.entries:
    regions = place(end, region_sizes(entry.shape, plan.scheme))
    tensors[entry.name] = PackedTensor(entry.name, entry.shape, plan, regions)
    end = regions[-1].offset + regions[-1].size
with open(sys.argv[2], "wb") as file:
    stream_tensors([shard], tensors.values(), pack, file, threads=2)
# Unlike ru_maxrss, this does not begin with the memory of the process that started us.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) * 1024)
"""


def peak_bytes(folder: Path, shapes: list[tuple[int, int]]) -> int:
    """Peak memory of a process that exports a bfloat16 checkpoint of matrices of these shapes."""
    header, end = {}, 0
    for index, (rows, columns) in enumerate(shapes):
        offsets = [end, end + 2 * rows * columns]
        header[f"{index}"] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps(header).encode()
    row = np.random.default_rng(0).standard_normal(1 << 19, np.float32).view(np.uint32) >> 16
    chunk = row.astype("<u2").tobytes()
    with (folder / "large.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, end, len(chunk)):
            file.write(chunk[: end - start])
    try:
        done = subprocess.run(
            [sys.executable, "-c", EXPORT, folder / "large.safetensors", folder / "out"],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        (folder / "large.safetensors").unlink()
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' account of memory")
class TestMemory:
    def test_a_matrix_larger_than_the_memory_that_it_may_take(self, tmp_path: Path) -> None:
        assert peak_bytes(tmp_path, [(102_400, 1024)]) < 200e6  # the matrix: 210 MB

    def test_more_layers_take_no_more_memory(self, tmp_path: Path) -> None:
        layer = (8192, 1024)
        some, twice = (peak_bytes(tmp_path, [layer] * layers) for layers in (4, 8))
        assert twice < some + 10e6  # 67 MB of weights more
