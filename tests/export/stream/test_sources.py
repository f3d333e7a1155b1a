"""A packed tensor made of several of the checkpoint's: the bytes of the joined matrix, and every hash."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgephi.checkpoint.weights.safetensors import read_header
from edgephi.checkpoint.weights.source import Source
from edgephi.errors import BadCheckpointError
from edgephi.export.onnx.layout import pack
from edgephi.export.stream import reads
from edgephi.export.stream.one_pass import stream_tensors
from edgephi.export.stream.packed_tensor import PackedTensor
from tests.export.stream.wanted import (
    PLAIN,
    PLAN,
    WIDTH,
    Floats,
    Wanted,
    counted_bytes,
    joined,
    laid_out,
    matrix,
    one_after_the_other,
    streamed,
    tensor_bytes,
    write,
)
from tests.property_profile import examples
from tests.tiny_checkpoint import FloatKind, write_safetensors

HEADS, KEY_HEADS, HEAD = 4, 2, 32
ATTENTION = "model.layers.0.self_attn"
EXPERTS = "model.layers.0.block_sparse_moe.experts"

LLAMA = {
    f"{ATTENTION}.q_proj.weight": matrix(HEADS * HEAD, seed=1),
    f"{ATTENTION}.k_proj.weight": matrix(KEY_HEADS * HEAD, seed=2),
    f"{ATTENTION}.v_proj.weight": matrix(KEY_HEADS * HEAD, seed=3),
    "model.norm.weight": matrix(1, WIDTH, seed=4)[0],
}
FUSED = {
    f"{ATTENTION}.qkv_proj.weight": Wanted(
        ((HEADS + 2 * KEY_HEADS) * HEAD, WIDTH),
        one_after_the_other(*((name, len(rows)) for name, rows in LLAMA.items() if "proj" in name)),
    ),
    "model.norm.weight": Wanted((WIDTH,), plan=PLAIN),
}


def experts(count: int, rows: int) -> dict[str, Floats]:
    """Named and ordered as the Phi-3.5-MoE's checkpoints have them."""
    parts = [(expert, part) for expert in range(count) for part in ("w1", "w2", "w3")]
    shapes = {"w1": (rows, WIDTH), "w2": (WIDTH, rows), "w3": (rows, WIDTH)}
    return {
        f"{EXPERTS}.{expert}.{part}.weight": matrix(*shapes[part], seed=number)
        for number, (expert, part) in enumerate(parts)
    }


def stacked(count: int, rows: int) -> dict[str, Wanted]:
    """The experts as onnxruntime's QMoE wants them: gate and up rows alternate, then all that come down."""
    gate_up = []
    for expert in range(count):
        first, end = 2 * rows * expert, 2 * rows * (expert + 1)
        gate_up.append(Source(f"{EXPERTS}.{expert}.w1.weight", range(rows), range(first, end, 2)))
        gate_up.append(Source(f"{EXPERTS}.{expert}.w3.weight", range(rows), range(first + 1, end, 2)))
    down = one_after_the_other(*((f"{EXPERTS}.{expert}.w2.weight", WIDTH) for expert in range(count)))
    return {
        "gate_up": Wanted((count, 2 * rows, WIDTH), tuple(gate_up)),
        "down": Wanted((count, WIDTH, rows), down),
    }


class TestSplitProjections:
    @pytest.mark.parametrize("block", [640, 1 << 20])
    def test_in_the_order_of_the_file_are_read_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
    ) -> None:
        monkeypatch.setattr(reads, "BLOCK_WEIGHTS", block)
        shards = write(tmp_path, LLAMA)
        with counted_bytes(monkeypatch) as counts:
            data, _ = streamed(tmp_path, shards, FUSED)
        assert sum(counts) == tensor_bytes(shards)
        assert data == joined(tmp_path, LLAMA, FUSED)

    def test_out_of_order_are_read_again_for_the_hash(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alphabetical = dict(sorted(LLAMA.items()))
        shards = write(tmp_path, alphabetical)
        with counted_bytes(monkeypatch) as counts:
            data, _ = streamed(tmp_path, shards, FUSED)
        assert sum(counts) == 2 * tensor_bytes(shards)
        assert data == joined(tmp_path, LLAMA, FUSED)

    def test_only_the_shard_that_is_out_of_order_is_read_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = sorted(LLAMA)  # norm, k, q | v
        shards = write(tmp_path, {name: LLAMA[name] for name in names[:-1]}, {names[-1]: LLAMA[names[-1]]})
        with counted_bytes(monkeypatch) as counts:
            data, _ = streamed(tmp_path, shards, FUSED)
        assert sum(counts) == tensor_bytes(shards) + tensor_bytes(shards[:1])
        assert data == joined(tmp_path, LLAMA, FUSED)

    def test_in_shards_that_take_turns_are_read_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = list(LLAMA)  # q, v | k, norm
        shards = write(tmp_path, *({name: LLAMA[name] for name in names[start::2]} for start in (0, 1)))
        with counted_bytes(monkeypatch) as counts:
            data, _ = streamed(tmp_path, shards, FUSED)
        assert sum(counts) == tensor_bytes(shards)
        assert data == joined(tmp_path, LLAMA, FUSED)

    def test_a_tensor_between_them_that_nobody_wants_is_hashed(self, tmp_path: Path) -> None:
        names = list(LLAMA)
        others = {f"rotary.{number}": matrix(1, 7, seed=number)[0] for number in range(5)}
        mixed: dict[str, Floats] = {}
        for name, other in zip(names, others, strict=False):
            mixed |= {other: others[other], name: LLAMA[name]}
        shards = write(tmp_path, mixed | others)
        assert streamed(tmp_path, shards, FUSED)[0] == joined(tmp_path, LLAMA, FUSED)

    def test_of_several_dtypes_are_joined_exactly(self, tmp_path: Path) -> None:
        dtypes: tuple[FloatKind, ...] = ("BF16", "F32", "F16", "F32")
        kinds = dict(zip(LLAMA, dtypes, strict=True))
        # What all three dtypes hold exactly, so that the joined checkpoint has the same numbers.
        exact = {name: np.round(each * 256) / 256 for name, each in LLAMA.items()}
        file = tmp_path / "0.safetensors"
        write_safetensors(file, [(name, kinds[name], each) for name, each in exact.items()])
        assert streamed(tmp_path, [read_header(file)], FUSED)[0] == joined(tmp_path, exact, FUSED)

    def test_vectors_are_joined_as_well(self, tmp_path: Path) -> None:
        biases = {"q.bias": matrix(1, 48)[0], "k.bias": matrix(1, 16, seed=1)[0]}
        wanted = {"qkv.bias": Wanted((64,), one_after_the_other(("q.bias", 48), ("k.bias", 16)), PLAIN)}
        data, _ = streamed(tmp_path, write(tmp_path, biases, dtype="F32"), wanted)
        assert data == np.concatenate(list(biases.values())).tobytes()


class TestExperts:
    @pytest.mark.parametrize("block", [640, 999, 1 << 20])
    def test_are_stacked_and_interleaved(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
    ) -> None:
        monkeypatch.setattr(reads, "BLOCK_WEIGHTS", block)
        tensors, wanted = experts(4, 96), stacked(4, 96)
        names = list(tensors)
        shards = write(tmp_path, *({name: tensors[name] for name in names[at : at + 5]} for at in (0, 5, 10)))
        with counted_bytes(monkeypatch) as counts:
            data, report = streamed(tmp_path, shards, wanted)
        assert sum(counts) <= 2 * tensor_bytes(shards)
        assert data == joined(tmp_path, tensors, wanted)
        assert [error.name for error in report.errors] == ["gate_up", "down"]

    def test_one_whose_weight_is_not_finite_is_named(self, tmp_path: Path) -> None:
        tensors = experts(3, 32)
        tensors[f"{EXPERTS}.1.w3.weight"][7, 5] = np.nan
        with pytest.raises(BadCheckpointError, match=r"0\.safetensors: tensor .*experts\.1\.w3\.weight: "):
            streamed(tmp_path, write(tmp_path, tensors), stacked(3, 32))

    def test_one_whose_weight_is_too_large_is_named(self, tmp_path: Path) -> None:
        tensors = experts(3, 32)
        tensors[f"{EXPERTS}.2.w1.weight"][7, 5] = -1e30
        with pytest.raises(BadCheckpointError, match=r"experts\.2\.w1\.weight: .*past float16's range"):
            streamed(tmp_path, write(tmp_path, tensors), stacked(3, 32))


class TestFusedProjections:
    """What a checkpoint holds in one tensor and an engine wants otherwise."""

    rows = (HEADS + 2 * KEY_HEADS) * HEAD
    fused = {"qkv": matrix(rows)}  # noqa: RUF012 - nobody changes it

    def test_are_split(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        edges = {"q": (0, HEADS * HEAD), "k": (HEADS * HEAD, 6 * HEAD), "v": (6 * HEAD, self.rows)}
        wanted = {
            name: Wanted((end - start, WIDTH), (Source("qkv", range(start, end), range(end - start)),))
            for name, (start, end) in edges.items()
        }
        shards = write(tmp_path, self.fused)
        with counted_bytes(monkeypatch) as counts:
            data, _ = streamed(tmp_path, shards, wanted)
        assert sum(counts) == tensor_bytes(shards)
        assert data == joined(tmp_path, self.fused, wanted)

    def test_that_lie_by_key_heads_are_sorted(self, tmp_path: Path) -> None:
        """Phi-3-small's order: for each key head its query heads, then the key, then the value."""
        sources, shared = [], HEADS // KEY_HEADS
        for group in range(KEY_HEADS):
            start = group * (shared + 2) * HEAD
            places = [(group * shared, shared), (HEADS + group, 1), (HEADS + KEY_HEADS + group, 1)]
            for place_, count in places:
                size = count * HEAD
                into = range(place_ * HEAD, place_ * HEAD + size)
                sources.append(Source("qkv", range(start, start + size), into))
                start += size
        wanted = {"qkv": Wanted((self.rows, WIDTH), tuple(sources))}
        shards = write(tmp_path, self.fused)
        assert streamed(tmp_path, shards, wanted)[0] == joined(tmp_path, self.fused, wanted)

    def test_whose_rows_alternate_are_parted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        half = self.rows // 2
        sources = [
            Source("qkv", range(first, self.rows, 2), range(first * half, (first + 1) * half))
            for first in (0, 1)
        ]
        wanted = {"up": Wanted((self.rows, WIDTH), tuple(sources))}
        shards = write(tmp_path, self.fused)
        with counted_bytes(monkeypatch) as counts:
            data, _ = streamed(tmp_path, shards, wanted)
        assert sum(counts) == 2 * tensor_bytes(shards)
        assert data == joined(tmp_path, self.fused, wanted)


class TestAnyArrangement:
    @settings(max_examples=examples(40))
    @given(data=st.data())
    def test_gives_the_bytes_of_the_joined_tensors(
        self, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Runs of rows of a few tensors, shuffled over packed tensors; the checkpoint cut anywhere."""
        folder = tmp_path_factory.mktemp("any")
        sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=5), "rows of each tensor")
        tensors = {str(number): matrix(rows, 64, seed=number) for number, rows in enumerate(sizes)}
        runs: list[tuple[str, range]] = []
        for name, each in tensors.items():
            step = data.draw(st.integers(1, 3), "step")
            for first in range(min(step, len(each))):
                rows = range(first, len(each), step)
                middle = data.draw(st.integers(0, len(rows)), "cut")
                runs += [(name, part) for part in (rows[:middle], rows[middle:]) if part]
        runs = data.draw(st.permutations(runs), "order")
        used = data.draw(st.integers(1, len(runs)), "used")
        wanted, edges = {}, sorted({0, used, data.draw(st.integers(0, used), "second tensor at")})
        for start, end in pairwise(edges):
            sources, row = [], 0
            for name, rows in runs[start:end]:
                sources.append(Source(name, rows, range(row, row + len(rows))))
                row += len(rows)
            wanted[f"packed {start}"] = Wanted((row, 64), tuple(sources))
        names = data.draw(st.permutations(list(tensors)), "order in the files")
        at = data.draw(st.integers(0, len(names)), "shard")
        cut = [{name: tensors[name] for name in part} for part in (names[:at], names[at:]) if part]
        with pytest.MonkeyPatch.context() as monkeypatch, counted_bytes(monkeypatch) as counts:
            monkeypatch.setattr(reads, "BLOCK_WEIGHTS", data.draw(st.integers(1, 4000), "block"))
            shards = write(folder, *cut)
            counts.clear()
            found, _ = streamed(folder, shards, wanted)
        assert tensor_bytes(shards) <= sum(counts) <= 2 * tensor_bytes(shards)
        assert found == joined(folder, tensors, wanted)


class TestSources:
    @pytest.mark.parametrize(
        "sources",
        [
            (Source("a", range(3), range(3)),),
            (Source("a", range(3), range(3)), Source("b", range(2), range(2, 4))),
            (Source("a", range(3), range(3)), Source("b", range(2), range(3, 5))),
            (Source("a", range(3), range(4)),),
        ],
        ids=["a row is missing", "a row twice", "one row too many", "three rows into four"],
    )
    def test_that_do_not_give_every_row_once_are_a_bug_of_ours(self, sources: tuple[Source, ...]) -> None:
        with pytest.raises(ValueError, match="rows"):
            PackedTensor("packed", (4, 32), PLAN, (), sources=sources)


def test_is_a_step_that_counts_every_byte_that_is_read(tmp_path: Path) -> None:
    shards = write(tmp_path, dict(sorted(LLAMA.items())))
    counted: list[int] = []

    @contextlib.contextmanager
    def step(_title: str, expected: int) -> Iterator[Callable[[int], None]]:
        assert expected == 2 * tensor_bytes(shards)
        yield counted.append

    with (tmp_path / "out").open("wb") as file:
        stream_tensors(shards, laid_out(FUSED).values(), pack, file, step=step)
    assert sum(counted) == 2 * tensor_bytes(shards)


STACK = """
import sys
from pathlib import Path
from edgephi.checkpoint.weights.safetensors import read_header
from edgephi.export.onnx.layout import pack, region_sizes
from edgephi.checkpoint.weights.source import Source
from edgephi.export.stream.one_pass import stream_tensors
from edgephi.export.stream.packed_tensor import PackedTensor, place
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan

plan, shard = TensorPlan(Scheme(8, 128), "rtn"), read_header(Path(sys.argv[1]))
count, (rows, columns) = len(shard.entries), shard.entries[0].shape
backwards = reversed(shard.entries)
sources = [Source(e.name, range(rows), range(n, count * rows, count)) for n, e in enumerate(backwards)]
regions = place(0, region_sizes((count * rows, columns), plan.scheme))
packed = PackedTensor("stack", (count, rows, columns), plan, regions, sources=tuple(sources))
with open(sys.argv[2], "wb") as file:
    stream_tensors([shard], [packed], pack, file, threads=2)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' account of memory")
def test_a_stack_larger_than_the_memory_that_it_may_take(tmp_path: Path) -> None:
    """Eight experts of 16 MB whose rows alternate, last expert first."""
    expert = matrix(8192, 1024)
    (shard,) = write(tmp_path, {str(number): expert for number in range(8)})
    assert tensor_bytes([shard]) > 130e6
    command: list[str | Path] = [sys.executable, "-c", STACK, shard.file, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shard.file.unlink()
    assert int(done.stdout) < 120e6
