"""What a manifest says of adapters beside the weights: each has a name and a file of its own, and a base."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from edgephi.bundle.manifest import Manifest, decode_manifest, encode_manifest
from edgephi.bundle.probe import Probe
from edgephi.bundle.switched_adapter import AdapterFiles, adapter_named, is_adapter_name
from edgephi.errors import BadBundleError, BadInputError
from tests.bundle.tiny import tiny_artifact, write_tiny_bundle


@pytest.fixture
def good(tmp_path: Path) -> Manifest:
    write_tiny_bundle(tmp_path)
    return tiny_artifact(tmp_path)


def with_first(manifest: Manifest, **changes: Any) -> Manifest:
    """The manifest with another first adapter."""
    first, *others = manifest.adapters
    return dataclasses.replace(manifest, adapters=(dataclasses.replace(first, **changes), *others))


def with_base(manifest: Manifest, **changes: Any) -> Manifest:
    assert manifest.base is not None
    return dataclasses.replace(manifest, base=dataclasses.replace(manifest.base, **changes))


def refusal(manifest: Manifest) -> str:
    """Why a manifest is refused, in one line of a bearable length."""
    with pytest.raises(BadBundleError) as refused:
        decode_manifest(encode_manifest(manifest))
    message = refused.value.message
    assert len(message.splitlines()) == 1 and len(message) < 300
    return message


def test_is_read_as_it_was_written(good: Manifest) -> None:
    manifest = with_first(good, scale=0.5, probe=Probe("Hello?", "Tea", 8))
    assert decode_manifest(encode_manifest(manifest)) == manifest
    assert manifest.adapters[0].described == "tea: example/tea at main, 0.5 times as strong"


@pytest.mark.parametrize("name", ["a", "Tea-2.1_b", "7", "a" * 64, "tea..v2", "console"])
def test_a_name_is_part_of_a_files_and_of_a_models(good: Manifest, name: str) -> None:
    assert is_adapter_name(name)
    assert decode_manifest(encode_manifest(with_first(good, name=name))).adapters[0].name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "-o",
        "_",
        "a/b",
        "a:b",
        "a b",
        "tea\n",
        "té",
        "a" * 65,
        "\u0663",
        "tea.",
        "con",
        "NUL.x",
    ],
)
def test_what_is_no_name_is_refused(good: Manifest, name: str) -> None:
    """Some could not be written to every disk, as a folder or with anything behind them."""
    assert not is_adapter_name(name)
    if name.isprintable():
        assert "adapters: expected names of their own, found" in refusal(with_first(good, name=name))


@pytest.mark.parametrize("name", ["coffee", "Coffee"])
def test_two_of_one_name_are_refused_spelling_aside(good: Manifest, name: str) -> None:
    assert "adapters: expected names of their own, found 'coffee'" in refusal(with_first(good, name=name))


@pytest.mark.parametrize(
    "file", ["model/none.gguf", "../tea.gguf", "/etc/passwd", "", "model/model.onnx", "model/\u202egnp.exe"]
)
def test_its_file_is_one_of_the_bundles_and_none_of_the_bases(good: Manifest, file: str) -> None:
    said = refusal(with_first(good, file=file))
    assert "adapters: tea: expected one of the bundle's own files, found" in said
    assert "\u202e" not in said


def test_its_probe_is_one_that_an_answer_can_be_held_against(good: Manifest) -> None:
    said = refusal(with_first(good, probe=Probe("Hello?", "", 0)))
    assert "adapters: tea: probe: expected max_tokens of 1 to 4096, found 0" in said


def test_adapters_and_base_come_together(good: Manifest) -> None:
    for one in ({"base": None}, {"adapters": ()}):
        said = refusal(dataclasses.replace(good, **one))
        assert "expected adapters and their base, found one of the two" in said


@pytest.mark.parametrize("sha256", ["", "0" * 63, "0" * 65, "A" * 64, "0" * 63 + "\u0660", "../x"])
def test_the_base_has_a_sha256(good: Manifest, sha256: str) -> None:
    assert "base: expected a sha256" in refusal(with_base(good, sha256=sha256))


def test_the_base_has_some_of_the_files_and_no_others(good: Manifest) -> None:
    """None, and every folder would be an artifact of adapters; all, and there were no adapters in it."""
    own = [entry.path for entry in good.files]
    for files in ((), ("model/none.bin",), (*own[:2], "model/none.bin")):
        assert "base: expected a sha256 and some of the bundle's files" in refusal(
            with_base(good, files=files)
        )
    assert "one of the bundle's own files" in refusal(with_base(good, files=tuple(own)))


class TestByName:
    def test_the_one_of_that_name(self, good: Manifest, tmp_path: Path) -> None:
        assert adapter_named(good.adapters, "coffee") is good.adapters[1]
        files = AdapterFiles(tmp_path, good.adapters)
        assert files.file("coffee") == tmp_path / "model/adapters/coffee.gguf"

    def test_an_unknown_one_names_those_that_there_are(self, good: Manifest) -> None:
        with pytest.raises(BadInputError, match="which has tea, coffee; found 'milk'"):
            adapter_named(good.adapters, "milk")
        with pytest.raises(BadInputError, match="which has none; found 'tea'"):
            adapter_named((), "tea")

    def test_is_not_guessed(self, good: Manifest) -> None:
        for name in ("Tea", "te", "tea ", ""):
            with pytest.raises(BadInputError):
                adapter_named(good.adapters, name)
