"""Reading an adapter's file: what the safetensors library writes, and nothing that is not an adapter."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgephi.runtime.engines.openvino_genai.adapter_file import changed_matrices, read_factors
from tests.property_profile import examples

np = pytest.importorskip("numpy")
safetensors_numpy = pytest.importorskip("safetensors.numpy")

PREFIX = "base_model.model."
MATRIX = "model.layers.0.self_attn.qkv_proj"


def pair(matrix: str, rows: int, columns: int, rank: int, dtype: str = "float16") -> dict[str, Any]:
    random = np.random.default_rng(rank)
    shapes = {"A": (rank, columns), "B": (rows, rank)}
    return {
        f"{PREFIX}{matrix}.lora_{side}.weight": random.standard_normal(shape).astype(dtype)
        for side, shape in shapes.items()
    }


def write(file: Path, tensors: Mapping[str, Any]) -> Path:
    safetensors_numpy.save_file(dict(tensors), file, metadata={"format": "pt"})
    return file


def test_reads_what_was_written(tmp_path: Path) -> None:
    head = pair("lm_head", 7, 5, 3, "float32")
    file = write(tmp_path / "file", {**pair(MATRIX, 12, 8, 2), **head})
    assert changed_matrices(file) == {MATRIX, "lm_head"}
    found = read_factors(file)
    assert {matrix: (own.left.shape, own.right.shape) for matrix, own in found.items()} == {
        MATRIX: ((12, 2), (2, 8)),
        "lm_head": ((7, 3), (3, 5)),
    }
    for side, array in (("A", found["lm_head"].right), ("B", found["lm_head"].left)):
        np.testing.assert_array_equal(array, head[f"{PREFIX}lm_head.lora_{side}.weight"], strict=True)


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ({}, "no matrices"),
        ({"lm_head.weight": np.zeros((2, 2), "float16")}, "a tensor 'lm_head.weight'"),
        (dict(list(pair(MATRIX, 4, 4, 2).items())[:1]), f"one matrix of two for '{MATRIX}'"),
        (pair(MATRIX, 4, 4, 2) | dict([*pair(MATRIX, 4, 4, 3).items()][1:]), "matrices of 2 and 3 ranks"),
        (pair(MATRIX, 4, 4, 2, "float64"), "no matrix of float16 or float32"),
        ({f"{PREFIX}{MATRIX}.lora_A.weight": np.zeros(4, "float16")}, "no matrix of float16 or float32"),
    ],
)
def test_other_tensors(tmp_path: Path, tensors: Mapping[str, Any], found: str) -> None:
    file = write(tmp_path / "file", tensors)
    with pytest.raises(ValueError, match=found):
        read_factors(file)


@given(data=st.data())
@settings(max_examples=examples(200))
def test_changed_bytes_are_an_adapter_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = write(tmp_path_factory.getbasetemp() / "changed", pair(MATRIX, 4, 3, 2))
    whole = bytearray(file.read_bytes())
    header = int.from_bytes(whole[:8], "little")
    place = data.draw(st.integers(0, 8 + header))
    whole[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    file.write_bytes(whole)
    try:
        found = read_factors(file)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    for own in found.values():
        assert own.left.shape[1] == own.right.shape[0]


@given(
    entry=st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F16", "F32", "F64", 5, None]),
            "shape": st.lists(st.one_of(st.integers(-1, 3), st.just(1 << 62), st.floats()), max_size=3),
            "data_offsets": st.lists(st.one_of(st.integers(-8, 64), st.just(1 << 62)), max_size=3),
        }
    )
)
@settings(max_examples=examples(200))
def test_headers_that_lie(tmp_path_factory: pytest.TempPathFactory, entry: dict[str, Any]) -> None:
    text = json.dumps({f"{PREFIX}{MATRIX}.lora_{side}.weight": entry for side in "AB"}).encode()
    file = tmp_path_factory.getbasetemp() / "lying"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(48))
    try:
        found = read_factors(file)[MATRIX]
    except ValueError as error:
        assert "\n" not in str(error)
        return
    size = {"F16": 2, "F32": 4}[entry["dtype"]]
    start, stop = entry["data_offsets"]
    assert 0 <= start <= stop <= 48
    assert found.left.shape == found.right.shape == tuple(entry["shape"])
    assert found.left.nbytes == stop - start == size * found.left.size
