"""`quantisation.json`: it comes back as it was written, and nothing else is read."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi.bundle.files import check_files
from edgephi.bundle.quantisation import (
    LARGEST_QUANTISATION_BYTES,
    QUANTISATION_NAME,
    SCHEMA,
    Quantisation,
    QuantisedTensor,
    decode_quantisation,
    encode_quantisation,
    read_quantisation,
)
from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError, BadInputError
from tests.bundle.tiny import FILES, write_tiny_bundle

TENSOR = QuantisedTensor("a", "down", 3, 4096, 2560, 4, 32, True, "free", 0.005, 0.003, 1.25)
HEAD = QuantisedTensor("b", "head", None, 4096, 4352, 8, 32, True, "free", 2e-5)

LINE = st.text(st.characters(min_codepoint=33, max_codepoint=0x3FF, categories=("L", "N", "P")), min_size=1)
COUNT = st.integers(1, 1 << 40)
ERROR = st.just(0.0) | st.floats(1e-30, 1e30)
TENSORS = st.builds(
    QuantisedTensor,
    name=LINE,
    role=LINE,
    layer=st.none() | st.integers(0, 1000),
    weights=COUNT,
    bytes=COUNT,
    bits=st.integers(1, 16),
    group_size=COUNT,
    symmetric=st.booleans(),
    scales=LINE,
    relative_squared_error=ERROR,
    weighted_relative_squared_error=st.none() | ERROR,
    weighted_squared_error=st.none() | ERROR,
)


def quantisation(*tensors: QuantisedTensor) -> Quantisation:
    return Quantisation(SCHEMA, tensors)


@given(st.lists(TENSORS, max_size=4, unique_by=lambda tensor: tensor.name))
def test_comes_back_as_it_was_written(tensors: list[QuantisedTensor]) -> None:
    written = quantisation(*tensors)
    assert decode_quantisation(encode_quantisation(written)) == written


def test_bits_per_weight_count_what_belongs_to_the_codes() -> None:
    assert (TENSOR.bits_per_weight, HEAD.bits_per_weight) == (5.0, 8.5)


def changed(**keys: Any) -> bytes:
    document = json.loads(encode_quantisation(quantisation(HEAD, TENSOR)))
    document["tensors"][1].update(keys)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "expected JSON, found "),
        (b"[]", "expected schema 'edgephi.quantisation/1', found None"),
        (changed(schema=1), r"tensors\[1\]: unknown key 'schema'"),
        (encode_quantisation(Quantisation("edgephi.quantisation/2", ())), "found 'edgephi.quantisation/2'"),
        (changed(name="b"), r"tensors\[1\]: found 'b' twice"),
        (changed(name=" "), "expected a name of one line, found ' '"),
        (changed(role="down\nup"), r"expected a role of one line, found 'down\\nup'"),
        (changed(role="d\u202en"), r"expected a role of one line, found 'd\\u202en'"),
        (changed(scales="x" * 201), "expected a scales of one line"),
        (changed(weights=0), "expected weights of 1 or more, found 0"),
        (changed(layer=-1), "expected JSON, found the number -1"),
        (changed(bits=4.5), "bits: expected a whole number, found 4.5"),
        (changed(relative_squared_error=None), "relative_squared_error: expected a number, found None"),
        (changed(relative_squared_error=float("nan")), "expected JSON, found NaN"),
        (changed(weighted_squared_error=-0.5), "weighted_squared_error of 0 or 1e-200 to .*, found -0.5"),
        (changed(weighted_squared_error=1e300), r"of 0 or 1e-200 to 1e\+200, found 1e\+300"),
        (changed(relative_squared_error=5e-324), "expected a relative_squared_error of 0 or .* found 5e-324"),
    ],
)
def test_anything_else_is_refused_in_one_line(data: bytes, problem: str) -> None:
    with pytest.raises(BadBundleError, match=problem) as refused:
        decode_quantisation(data)
    assert str(refused.value).startswith("quantisation.json: ")
    assert "\n" not in str(refused.value)
    assert refused.value.hint


class TestInABundle:
    DATA = encode_quantisation(quantisation(TENSOR))

    def test_is_read(self, tmp_path: Path) -> None:
        manifest = write_tiny_bundle(tmp_path, {**FILES, QUANTISATION_NAME: self.DATA})
        assert read_quantisation(tmp_path, manifest) == quantisation(TENSOR)

    def test_is_not_there_where_the_manifest_lists_none(self, tmp_path: Path) -> None:
        manifest = write_tiny_bundle(tmp_path)
        (tmp_path / QUANTISATION_NAME).write_bytes(self.DATA)
        assert read_quantisation(tmp_path, manifest) is None

    def test_is_the_file_that_the_manifest_lists(self, tmp_path: Path) -> None:
        manifest = write_tiny_bundle(tmp_path, {**FILES, QUANTISATION_NAME: self.DATA})
        for data in (self.DATA.replace(b"4096", b"4097"), self.DATA + b"\n", b""):
            (tmp_path / QUANTISATION_NAME).write_bytes(data)
            with pytest.raises(BadBundleError, match="expected sha256 "):
                read_quantisation(tmp_path, manifest)
        (tmp_path / QUANTISATION_NAME).unlink()
        with pytest.raises(BadBundleError, match=r"expected a file of \d+ bytes by the manifest, found none"):
            read_quantisation(tmp_path, manifest)

    def test_what_would_help_is_said(self, tmp_path: Path) -> None:
        bundle = tmp_path / "my bundle"
        manifest = write_tiny_bundle(bundle, {**FILES, QUANTISATION_NAME: self.DATA})
        (bundle / QUANTISATION_NAME).unlink()
        with pytest.raises(BadBundleError) as refused:
            read_quantisation(bundle, manifest)
        assert refused.value.hint.startswith("copy the bundle again, or build it again; ")
        assert f"`{edgephi_command('verify', bundle)}`" in refused.value.hint
        with pytest.raises(BadBundleError, match=QUANTISATION_NAME):  # it does say so
            check_files(bundle, manifest)
        bundle = tmp_path / "large"
        large = write_tiny_bundle(bundle, {QUANTISATION_NAME: bytes(LARGEST_QUANTISATION_BYTES + 1)})
        check_files(bundle, large)
        with pytest.raises(BadBundleError) as refused:  # nothing is wrong with it but what wrote it
            read_quantisation(bundle, large)
        assert refused.value.hint == "build the bundle again with this edgephi"

    def test_a_file_that_may_not_be_read_is_not_bad(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest = write_tiny_bundle(tmp_path, {**FILES, QUANTISATION_NAME: self.DATA})

        def closed(self: Path, *_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))

        monkeypatch.setattr(Path, "open", closed)  # root may read everything
        with pytest.raises(BadInputError) as refused:
            read_quantisation(tmp_path, manifest)
        assert not isinstance(refused.value, BadBundleError)
        assert refused.value.hint.startswith("change its permissions")

    @pytest.mark.parametrize("made", [os.mkfifo, os.mkdir])
    def test_nothing_but_a_file_is_waited_for(self, tmp_path: Path, made: Callable[[Path], None]) -> None:
        manifest = write_tiny_bundle(tmp_path, {**FILES, QUANTISATION_NAME: self.DATA})
        (tmp_path / QUANTISATION_NAME).unlink()
        made(tmp_path / QUANTISATION_NAME)
        with pytest.raises(BadBundleError, match="expected a plain file, found something else"):
            read_quantisation(tmp_path, manifest)

    def test_is_not_read_when_it_is_too_large(self, tmp_path: Path) -> None:
        data = bytes(LARGEST_QUANTISATION_BYTES + 1)
        manifest = write_tiny_bundle(tmp_path, {QUANTISATION_NAME: data})
        with pytest.raises(BadBundleError, match="expected at most 4194304 bytes, found 4194305"):
            read_quantisation(tmp_path, manifest)
