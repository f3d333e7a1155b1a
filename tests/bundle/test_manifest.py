"""The manifest: read strictly, written the same each time."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi.bundle.certificate import Certificate, Divergence, PlainRounding, QualityGate, TextPart
from edgephi.bundle.chunks import FileEntry
from edgephi.bundle.manifest import (
    ChatFacts,
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
from edgephi.bundle.probe import Probe
from edgephi.bundle.switched_adapter import BaseBundle, SwitchedAdapter
from edgephi.errors import BadBundleError
from tests.bundle.tiny import tiny_manifest, write_tiny_bundle

text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
name = st.from_regex(r"[a-z][a-z0-9._ -]{0,19}[a-z0-9]", fullmatch=True)
count = st.integers(0, 1 << 60)
amount = st.integers(0, 1 << 50)
number = st.floats(allow_nan=False, allow_infinity=False)
strings = st.dictionaries(text, text, max_size=3)
maybe_number = st.none() | number
divergence = st.none() | st.builds(
    Divergence, number, maybe_number, number, number, number, number, number, number, number
)
parts = st.dictionaries(text, st.builds(TextPart, count, number, number), max_size=3)
rounding = st.none() | st.builds(PlainRounding, number, number, maybe_number)
gate = st.none() | st.builds(QualityGate, number, number, number, number, number, st.booleans())
digest = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
chunk_sizes = st.lists(st.integers(1, 4 << 20), max_size=3)
paths = st.lists(st.from_regex(r"model/[a-z0-9._-]{1,12}[a-z]", fullmatch=True), unique=True, max_size=4)
entries = st.builds(
    lambda sizes, sha256: FileEntry("", sum(sizes), sha256, tuple(f"{size}:{sha256}" for size in sizes)),
    chunk_sizes,
    digest,
)
probe = st.builds(Probe, text.filter(bool), text, st.integers(1, 4096), st.floats(0, 1e6))
certificates = st.builds(
    Certificate,
    st.sampled_from(["quick", "full", "off"]),
    text,
    count,
    count,
    text,
    text,
    text,
    text,
    divergence,
    divergence,
    divergence,
    parts,
    parts,
    rounding,
    gate,
)
switched = st.builds(
    SwitchedAdapter,
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,61}x", fullmatch=True),
    text,
    text,
    st.just(""),
    number,
    certificates,
    st.none() | probe,
)


@st.composite
def adapted(draw: st.DrawFn, manifests: st.SearchStrategy[Manifest]) -> Manifest:
    """A manifest with adapters, each the file of one, and a base that has some of the other files."""
    manifest = draw(manifests.filter(lambda each: len(each.files) > 1))
    base, own = manifest.files[0], manifest.files[1:]
    adapters = draw(
        st.lists(switched, min_size=1, max_size=3, unique_by=lambda adapter: adapter.name.casefold())
    )
    placed = [dataclasses.replace(each, file=draw(st.sampled_from(own)).path) for each in adapters]
    bundle = draw(st.builds(BaseBundle, text, count, digest, st.just((base.path,))))
    return dataclasses.replace(manifest, adapters=tuple(placed), base=bundle)


manifests = st.builds(
    Manifest,
    st.just("edgephi.bundle/1"),
    name,
    count,
    text,
    st.builds(ModelFacts, text, text, text, count, count),
    st.builds(TargetFacts, text, text, text, st.lists(text, max_size=2).map(tuple)),
    st.builds(QuantFacts, count, count, st.booleans(), text, count, count, number),
    st.builds(ChatFacts, text, st.lists(count, max_size=3).map(tuple)),
    st.builds(Limits, count),
    st.builds(Requires, amount, amount, strings, amount),
    st.builds(
        lambda names, entry: tuple(dataclasses.replace(entry, path=name) for name in names), paths, entries
    ),
    certificates,
    st.builds(Provenance, text, text, strings, text),
    st.just(()),
    st.none() | probe,
)


def changed(*keys: str, value: object) -> bytes:
    """The bytes of a good manifest with one value replaced."""
    data: dict[str, Any] = json.loads(encode_manifest(tiny_manifest()))
    place = data
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return json.dumps(data).encode()


@given(manifests | adapted(manifests))
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


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["model/a", "Model/A"], r"'Model/A' is listed twice as 'model/a', spelling aside"),
        (["Bundle.JSON"], r"'Bundle\.JSON' is listed twice as 'bundle\.json'"),
        (["model/a", "model/a/b"], r"'model/a' is also that of a folder"),
        (["model/a/b", "model/A"], r"'model/A' is also that of a folder"),
        (["bundle.json/a"], r"'bundle\.json' is also that of a folder"),
        (["bundle.dsse.json"], r"is kept for a signature"),
        (["bundle.model-signing.json"], r"is kept for a signature"),
        (["model/a/b", "Model/a/c"], r"folder 'Model' is listed twice as 'model', spelling aside"),
        (["model/\xe9", "model/e\u0301"], r"is listed twice as 'model/.', spelling aside"),
        (["model/stra\xdfe", "model/STRASSE"], r"is listed twice as 'model/straße', spelling aside"),
        (["Bundle.DSSE.json"], r"is listed twice as 'bundle\.dsse\.json'"),
        (["model/CON"], r"cannot be written to every disk"),
        (["model/nul.txt"], r"cannot be written to every disk"),
        (["model/com1 .onnx"], r"cannot be written to every disk"),
        (["model/a."], r"cannot be written to every disk"),
        (["model /a"], r"cannot be written to every disk"),
        (["model/a:b"], r"cannot be written to every disk"),
        (["model/a*"], r"cannot be written to every disk"),
        (["a/" * 16 + "a"], r"cannot be written to a disk"),
        (["model/\u202egnp.exe"], r"cannot be written to a disk"),
        (["model/a\n"], r"cannot be written to a disk"),
        (["model/\0"], r"found control characters in 'model/"),
        (["model/" + "a" * 256], r"cannot be written to a disk"),
        (["a" + "/a" * 512], r"cannot be written to a disk"),
    ],
)
def test_paths_that_cannot_all_be_files(names: list[str], message: str) -> None:
    with pytest.raises(BadBundleError, match=message):
        decode_manifest(changed("files", value=[{"path": n, "size": 1, "sha256": "0" * 64} for n in names]))


OTHER_FORMS: dict[str, tuple[bytes, str]] = {
    "a name of two lines": (changed("name", value="a\nb"), r"expected a name of one line, found 'a\\nb'"),
    "an empty name": (changed("name", value=""), "expected a name of one line, found ''"),
    "a long name": (changed("name", value="a" * 201), "expected a name of one line, found 'aaa"),
    "a name with a space at its end": (
        changed("name", value="a "),
        "expected a name of one line, found 'a '",
    ),
    "a text that clears the screen": (
        changed("created", value="\x1b[2J"),
        r"control characters in '\\x1b\[2J'",
    ),
    "a key that does": (changed("requires", "engines", value={"\x9b2J": "1"}), "control characters in"),
    "a number of many digits": (
        changed("sequence", value=10**4000),
        "found the number 10000000000000000000, ",
    ),
    "a number past 63 bits": (
        changed("sequence", value=1 << 63),
        "found the number 9223372036854775808, which",
    ),
    "a negative sequence": (changed("sequence", value=-1), "found the number -1, which counts nothing"),
    "a floor above itself": (
        changed("security_floor", value=4),
        "a security_floor of at most 3, .*, found 4",
    ),
    "memory that no device has": (changed("requires", "memory_bytes", value=1 << 51), "expected at most"),
    "a key twice": (
        encode_manifest(tiny_manifest()).replace(b'"sequence": 3', b'"sequence": 3, "sequence": 4'),
        "found a key twice in one table, which has 'schema, name, sequence",
    ),
    "a huge unknown key": (changed("a" * 100_000, value=1), r"unknown key 'aaa.{60,100}'; known"),
    "a huge value": (
        changed("limits", value=[["a" * 1000] * 100] * 100),
        r"expected a table, found \[\['aaa",
    ),
}


@pytest.mark.parametrize(("data", "message"), OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_a_form_that_no_builder_writes(data: bytes, message: str) -> None:
    with pytest.raises(BadBundleError, match=message) as refused:
        decode_manifest(data)
    assert len(refused.value.message) < 500


def test_texts_of_several_lines_are_texts() -> None:
    chat = ChatFacts("{% for m in messages %}\n\t{{ m }}\r\n{% endfor %}", (1,))
    assert decode_manifest(encode_manifest(tiny_manifest(chat=chat))).chat == chat


def test_files_with_one_content_have_one_size() -> None:
    files = [{"path": path, "size": size, "sha256": "0" * 64} for path, size in (("a", 1), ("b", 2))]
    with pytest.raises(
        BadBundleError, match="b: expected 1 bytes, as another file has with this sha256, found 2"
    ):
        decode_manifest(changed("files", value=files))


def test_half_a_letter_is_no_text() -> None:
    with pytest.raises(BadBundleError, match="surrogates not allowed"):
        decode_manifest(changed("name", value="\ud800"))
    with pytest.raises(BadBundleError, match="can't decode byte"):
        decode_manifest(changed("name", value="x").replace(b'"x"', b'"\xed\xa0\x80"'))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"size": -1}, "found the number -1, which counts nothing"),
        ({"size": 1 << 60}, "expected a size of 0 to"),
        ({"sha256": "../../../etc/passwd"}, r"expected a sha256 of 64 hex digits, found '\.\./"),
        ({"sha256": "A" * 64}, "expected a sha256 of 64 hex digits"),
        ({"chunks": ["3:" + "0" * 64]}, "expected chunks of 5 bytes in all, found 3"),
        ({"chunks": ["5:" + "0" * 64, "1:" + "0" * 64]}, "expected chunks of 5 bytes in all, found 6"),
        ({"chunks": ["0:" + "0" * 64, "5:" + "0" * 64]}, "expected a chunk as SIZE:SHA256"),
        ({"chunks": ["05:" + "0" * 64]}, "expected a chunk as SIZE:SHA256"),
        ({"chunks": ["-5:" + "0" * 64]}, "expected a chunk as SIZE:SHA256"),
        ({"chunks": ["\N{ARABIC-INDIC DIGIT FIVE}:" + "0" * 64]}, "expected a chunk as SIZE:SHA256"),
        ({"chunks": ["5"]}, "expected a chunk as SIZE:SHA256"),
        ({"chunks": ["5:" + "0" * 63]}, "expected a chunk as SIZE:SHA256"),
        ({"chunks": ["5:" + "0" * 64 + "\n"]}, "expected a chunk as SIZE:SHA256"),
        ({"chunks": ["4194305:" + "0" * 64], "size": 4194305}, "with a size of 1 to 4194304"),
        ({"chunks": [5]}, r"chunks\[0\]: expected a string"),
    ],
)
def test_a_file_whose_numbers_are_none(entry: dict[str, object], message: str) -> None:
    with pytest.raises(BadBundleError, match=message):
        decode_manifest(changed("files", value=[{"path": "a", "size": 5, "sha256": "0" * 64, **entry}]))


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ({"prompt": ""}, "expected a prompt, found an empty one"),
        ({"max_tokens": 0}, "expected max_tokens of 1 to 4096, found 0"),
        ({"max_tokens": 4097}, "expected max_tokens of 1 to 4096, found 4097"),
        ({"minimum_tokens_per_second": -0.5}, "a minimum_tokens_per_second of 0 or more, found -0.5"),
        ({"minimum_tokens_per_second": -1}, "found the number -1, which counts nothing"),
        ({"minimum_tokens_per_second": float("nan")}, "found NaN, which is no JSON"),
        ({"minimum_tokens_per_second": float("inf")}, "found Infinity, which is no JSON"),
    ],
)
def test_a_probe_that_no_answer_can_be_held_against(probe: dict[str, object], message: str) -> None:
    good = {"prompt": "a", "expected": "", "max_tokens": 8, "minimum_tokens_per_second": 0.5}
    assert decode_manifest(changed("probe", value=good)).probe == Probe("a", "", 8, 0.5)
    with pytest.raises(BadBundleError, match=message):
        decode_manifest(changed("probe", value={**good, **probe}))


@pytest.mark.parametrize("version", ["", "9" * 5000, "3.11/../..", "\N{SUPERSCRIPT TWO}", "2.", "latest"])
@pytest.mark.parametrize("what", ["python", "glibc"])
def test_wheels_for_a_version_that_is_none(what: str, version: str) -> None:
    """It is compared as numbers, and names a folder."""
    path = "wheels/linux-x86_64-cp311"
    plain = {"platform": path[7:], "python": "3.11", "glibc": "2.17", "extras": [], "installed_bytes": 1}
    data = json.loads(changed("wheels", value=[plain]))
    data["files"].append({"path": f"{path}/requirements.txt", "size": 0, "sha256": "0" * 64})
    assert decode_manifest(json.dumps(data).encode()).wheels[0].python == "3.11"
    data["wheels"][0][what] = version
    with pytest.raises(BadBundleError, match=f"wheels: expected a version of {what} such as 2.36, found"):
        decode_manifest(json.dumps(data).encode())


def test_a_manifest_without_chunks_and_probe_is_one_too() -> None:
    data = json.loads(encode_manifest(tiny_manifest()))
    del data["probe"]
    for entry in data["files"]:
        del entry["chunks"]
    assert decode_manifest(json.dumps(data).encode()) == tiny_manifest()


def test_no_such_bundle(tmp_path: Path) -> None:
    with pytest.raises(BadBundleError, match="found no such folder"):
        read_manifest(tmp_path / "none")
    with pytest.raises(BadBundleError, match=r"found no bundle\.json in it"):
        read_manifest(tmp_path)


def test_reads_what_was_written(tmp_path: Path) -> None:
    assert write_tiny_bundle(tmp_path) == read_manifest(tmp_path)
