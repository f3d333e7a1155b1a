"""The manifest: read strictly, written the same each time."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi.errors import BadBundleError
from edgephi.manifest import (
    Certificate,
    Chat,
    Divergence,
    FileEntry,
    Limits,
    Manifest,
    ModelFacts,
    Provenance,
    QuantFacts,
    Requires,
    TargetFacts,
    decode_manifest,
    encode_manifest,
    read_manifest,
)
from tests.tiny_bundle import tiny_manifest, write_tiny_bundle

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
count = st.integers(0, 1 << 60)
number = st.floats(allow_nan=False, allow_infinity=False)
strings = st.dictionaries(text, text, max_size=3)
divergence = st.none() | st.builds(Divergence, number, number, number, number, number)
paths = st.lists(st.from_regex(r"model/[a-z0-9._-]{1,12}[a-z]", fullmatch=True), unique=True, max_size=4)
manifests = st.builds(
    Manifest,
    st.just("edgephi.bundle/1"),
    text,
    count,
    text,
    st.builds(ModelFacts, text, text, text, count, count),
    st.builds(TargetFacts, text, text, text, st.lists(text, max_size=2).map(tuple)),
    st.builds(QuantFacts, count, count, st.booleans(), text, count, count, number),
    st.builds(Chat, text, st.lists(count, max_size=3).map(tuple)),
    st.builds(Limits, count),
    st.builds(Requires, count, count, strings, count),
    paths.map(lambda names: tuple(FileEntry(name, 1, "0" * 64) for name in names)),
    st.builds(
        Certificate,
        st.sampled_from(["quick", "full", "off"]),
        text,
        count,
        text,
        text,
        text,
        text,
        divergence,
        divergence,
        divergence,
    ),
    st.builds(Provenance, text, text, strings, text),
)


def changed(*keys: str, value: object) -> bytes:
    """The bytes of a good manifest with one value replaced."""
    data: dict[str, Any] = json.loads(encode_manifest(tiny_manifest()))
    place = data
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return json.dumps(data).encode()


@given(manifests)
def test_round_trip(manifest: Manifest) -> None:
    encoded = encode_manifest(manifest)
    assert decode_manifest(encoded) == manifest
    assert encode_manifest(decode_manifest(encoded)) == encoded
    assert encoded.endswith(b"}\n")


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with pytest.raises(BadBundleError):
        decode_manifest(data)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_not_a_manifest(data: bytes) -> None:
    with pytest.raises(BadBundleError, match="expected"):
        decode_manifest(data)


@pytest.mark.parametrize("schema", [None, 1, "edgephi.bundle/2", []])
def test_another_schema(schema: object) -> None:
    with pytest.raises(BadBundleError, match=r"expected schema 'edgephi\.bundle/1', found"):
        decode_manifest(changed("schema", value=schema))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed("limits", value={"contxt": 1}), "limits: unknown key 'contxt'; did you mean 'context'"),
        (changed("limits", value={}), "limits: key 'context' is missing"),
        (changed("sequence", value="3"), "sequence: expected a whole number, found '3'"),
        (changed("certificate", "level", value="some"), "level: expected one of 'quick', 'full', 'off'"),
        (changed("files", value={}), "files: expected a list, found"),
        (changed("chat", "stop_token_ids", value=[1.5]), r"stop_token_ids\[0\]: expected a whole number"),
    ],
)
def test_a_wrong_value_is_named(data: bytes, message: str) -> None:
    with pytest.raises(BadBundleError, match=message):
        decode_manifest(data)


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "model/../../x", "..", "model/..", "a\\..\\b", "./x", "a//b", "a/", "", ".", "/"],
)
def test_a_path_that_is_not_a_plain_path_inside(path: str) -> None:
    with pytest.raises(BadBundleError, match="file path"):
        decode_manifest(changed("files", value=[{"path": path, "size": 1, "sha256": "0" * 64}]))


@pytest.mark.parametrize("names", [["model/a", "model/a"], ["bundle.json"]])
def test_a_file_that_is_listed_twice(names: list[str]) -> None:
    with pytest.raises(BadBundleError, match="is listed twice"):
        decode_manifest(changed("files", value=[{"path": n, "size": 1, "sha256": "0" * 64} for n in names]))


def test_no_such_bundle(tmp_path: Path) -> None:
    with pytest.raises(BadBundleError, match="found no such folder"):
        read_manifest(tmp_path / "none")
    with pytest.raises(BadBundleError, match=r"found no bundle\.json in it"):
        read_manifest(tmp_path)


def test_reads_what_was_written(tmp_path: Path) -> None:
    assert write_tiny_bundle(tmp_path) == read_manifest(tmp_path)
