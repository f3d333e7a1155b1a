"""The streaming reader agrees with the format's own library, and believes no header."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from edgephi.checkpoint.weights.safetensors import open_shard, read_bytes, read_header, read_into, to_float32
from edgephi.errors import BadCheckpointError
from tests.property_profile import examples

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
OTHER_DTYPES = {"U8": torch.uint8, "I64": torch.int64, "BOOL": torch.bool, "F64": torch.float64}
reuse_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(40)
)

shapes = st.lists(st.integers(0, 5), min_size=0, max_size=3).map(tuple)
tensors = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
        lambda name: name != "__metadata__"
    ),
    st.tuples(st.sampled_from([*DTYPES, *OTHER_DTYPES]), shapes),
    min_size=1,
    max_size=6,
)


def write_header(file: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return file


def entry(shape: list[Any], start: Any, stop: Any, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def rejected(file: Path) -> str:
    with pytest.raises(BadCheckpointError) as caught:
        read_header(file)
    assert "\n" not in caught.value.message
    assert str(file) in caught.value.message
    return caught.value.message


class TestAgainstTheLibrary:
    @reuse_folder
    @given(tensors, st.integers(0, 2**32 - 1))
    def test_reads_what_the_library_wrote(
        self, tmp_path: Path, wanted: dict[str, tuple[str, tuple[int, ...]]], seed: int
    ) -> None:
        random = torch.Generator().manual_seed(seed)
        saved = {
            name: (100 * torch.randn(shape, generator=random)).to({**DTYPES, **OTHER_DTYPES}[dtype])
            for name, (dtype, shape) in wanted.items()
        }
        file = tmp_path / "x.safetensors"
        save_file(saved, file, metadata={"format": "pt"})

        header = read_header(file)
        assert {e.name: (e.dtype, e.shape) for e in header.entries} == wanted
        starts = [e.start for e in header.entries]
        assert starts == sorted(starts)
        descriptor = open_shard(file)
        data = {e.name: read_bytes(descriptor, e.start, e.size, file=file) for e in header.entries}
        os.close(descriptor)
        assert header.raw + b"".join(d.tobytes() for d in data.values()) == file.read_bytes()
        for e in header.entries:
            if e.dtype in DTYPES:
                values = to_float32(data[e.name], e.dtype).reshape(e.shape)
                np.testing.assert_array_equal(values, saved[e.name].float().numpy())


class TestToFloat32:
    @pytest.mark.parametrize("dtype", ["BF16", "F16"])
    def test_every_bit_pattern(self, dtype: str) -> None:
        bits = np.arange(1 << 16, dtype=np.uint16)
        expected = torch.from_numpy(bits.view(np.int16)).view(DTYPES[dtype]).float().numpy()
        np.testing.assert_array_equal(to_float32(bits.view(np.uint8), dtype), expected)

    @pytest.mark.parametrize("dtype", list(DTYPES))
    def test_into_a_buffer_of_the_caller(self, dtype: str) -> None:
        values = torch.tensor([1.5, -2.0, 0.25, 3.0], dtype=DTYPES[dtype])
        raw = values.view(torch.uint8).numpy()
        out: npt.NDArray[np.float32] = np.zeros(4, np.float32)
        assert to_float32(raw, dtype, out=out) is out
        assert out.tolist() == [1.5, -2.0, 0.25, 3.0]


class TestReadInto:
    def test_past_the_end_of_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "x"
        file.write_bytes(b"12345")
        descriptor = open_shard(file)
        with pytest.raises(BadCheckpointError, match="expected 4 bytes at 3, found 2"):
            read_into(descriptor, np.empty(4, np.uint8), 3, file=file)
        os.close(descriptor)

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(BadCheckpointError, match="No such file"):
            open_shard(tmp_path / "x")


class TestLyingHeaders:
    @pytest.mark.parametrize(
        ("header", "data", "message"),
        [
            pytest.param({"a": entry([2], 0, 8)}, b"", "expected", id="offsets past the end"),
            pytest.param({"a": entry([2], 0, 8)}, bytes(9), "by its header", id="bytes nobody claims"),
            pytest.param({"a": entry([2], 4, 12)}, bytes(12), "(gap)", id="gap at the start"),
            pytest.param(
                {"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12), "(gap)", id="gap in the middle"
            ),
            pytest.param({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}, bytes(8), "(overlap)", id="overlap"),
            pytest.param({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, bytes(4), "(overlap)", id="alias"),
            pytest.param({"a": entry([3], 0, 8)}, bytes(8), "expected 12 bytes for F32 [3]", id="shape"),
            pytest.param({"a": entry([2], 0, 8, "BF16")}, bytes(8), "expected 4 bytes for BF16", id="dtype"),
            pytest.param({"a": entry([2], 0, 8, "F31")}, bytes(8), "dtype", id="unknown dtype"),
            pytest.param({"a": entry([2], 0, 8, ["F32"])}, bytes(8), "dtype", id="dtype of a wrong type"),
            pytest.param({"a": entry([2], 8, 0)}, bytes(8), "rising", id="falling offsets"),
            pytest.param({"a": entry([-2], 0, 8)}, bytes(8), "shape", id="negative shape"),
            pytest.param({"a": entry([2], -8, 0)}, bytes(8), "data_offsets", id="negative offset"),
            pytest.param({"a": entry([True, 2], 0, 8)}, bytes(8), "shape", id="shape of booleans"),
            pytest.param({"a": entry([2.0], 0, 8)}, bytes(8), "shape", id="shape of floats"),
            pytest.param({"a": entry([1 << 70], 0, 8)}, bytes(8), "shape", id="shape past all memory"),
            pytest.param(
                {"a": entry([1 << 61] * 8, 0, 8)}, bytes(8), "expected", id="product past all memory"
            ),
            pytest.param({"a": {"dtype": "F32", "shape": [2]}}, bytes(8), "data_offsets", id="no offsets"),
            pytest.param({"a": 7}, b"", "expected dtype", id="tensor is a number"),
            pytest.param([], b"", "table", id="header is a list"),
            pytest.param(b"{not json", b"", "JSON", id="not JSON"),
            pytest.param(b"\xff\xfe{}", b"", "JSON", id="not text"),
            pytest.param(b"[" * 100_000, b"", "JSON", id="deeply nested"),
            pytest.param(
                b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
                bytes(4),
                "'a' twice",
                id="a name twice",
            ),
        ],
    )
    def test_is_refused(self, tmp_path: Path, header: object, data: bytes, message: str) -> None:
        assert message in rejected(write_header(tmp_path / "x.safetensors", header, data))

    def test_header_of_a_gigabyte_is_not_read(self, tmp_path: Path) -> None:
        file = tmp_path / "x.safetensors"
        file.write_bytes((1 << 30).to_bytes(8, "little"))
        os.truncate(file, (1 << 30) + 8)  # a sparse file: the length is true, and still too much
        assert "at most 100000000 bytes, found 1073741824" in rejected(file)

    @pytest.mark.parametrize("size", [0, 3, 8, 20])
    def test_file_ends_inside_the_header(self, tmp_path: Path, size: int) -> None:
        file = tmp_path / "x.safetensors"
        file.write_bytes(((50).to_bytes(8, "little") + bytes(50))[:size])
        assert "expected" in rejected(file)

    def test_truncated_data_says_how_much_is_missing(self, tmp_path: Path) -> None:
        file = write_header(tmp_path / "x.safetensors", {"a": entry([100], 0, 400)}, bytes(400))
        whole = file.stat().st_size
        os.truncate(file, whole - 1)
        assert f"expected {whole} bytes by its header, found {whole - 1}" in rejected(file)

    @reuse_folder
    @given(st.data())
    def test_any_changed_byte_is_refused_or_harmless(self, tmp_path: Path, data: st.DataObject) -> None:
        file = write_header(
            tmp_path / "x.safetensors",
            {"a": entry([2, 3], 0, 24), "b": entry([4], 24, 32, "BF16")},
            bytes(32),
        )
        content = bytearray(file.read_bytes())
        place = data.draw(st.integers(0, len(content) - 33))
        content[place] = data.draw(st.integers(0, 255))
        file.write_bytes(content)
        try:
            header = read_header(file)
        except BadCheckpointError as error:
            assert "\n" not in error.message
        else:
            assert sum(e.size for e in header.entries) + len(header.raw) == len(content)
