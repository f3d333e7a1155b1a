"""A bundle that sees has to look at its picture on the device, before it is relied on."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

import edgephi.runtime
from edgephi.bundle.document import encode_document
from edgephi.bundle.manifest import Manifest, decode_manifest, read_manifest
from edgephi.bundle.probe import PictureProbe
from edgephi.errors import BadBundleError, ProbeFailedError
from edgephi.runtime.options import Options
from edgephi.store.proving.probe import ProbeResult, prove

QUESTION = "What does the gauge say?"


def asked(bundle: Path, expected: str, picture: str = "probe.png") -> Manifest:
    probe = PictureProbe(QUESTION, picture, expected, max_tokens=6)
    return dataclasses.replace(read_manifest(bundle), picture_probe=probe)


def proved(bundle: Path, manifest: Manifest) -> ProbeResult:
    return prove(bundle, manifest, interpreter=sys.executable)


def test_the_answer_is_that_of_a_session(seeing_bundle: Path) -> None:
    session = edgephi.runtime.load(seeing_bundle)
    said = session.generate(QUESTION, Options(max_tokens=6), images=[seeing_bundle / "probe.png"])
    without = session.generate(QUESTION, Options(max_tokens=6))
    assert said.text != without.text
    result = proved(seeing_bundle, asked(seeing_bundle, said.text))
    assert result.memory_bytes > 10e6
    assert result.about_picture == said.text


def test_another_answer_fails(seeing_bundle: Path) -> None:
    with pytest.raises(ProbeFailedError, match=r"about its picture: expected .* begins 'Sixty\.'"):
        proved(seeing_bundle, asked(seeing_bundle, "Sixty."))


def test_a_picture_that_cannot_be_read_fails(seeing_bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes((seeing_bundle / "probe.png").read_bytes()[:200])
    manifest = asked(seeing_bundle, "", str(broken))
    with pytest.raises(ProbeFailedError, match=r"broken\.png"):
        proved(seeing_bundle, manifest)


def test_a_manifest_names_a_picture_that_is_there(seeing_bundle: Path) -> None:
    manifest = asked(seeing_bundle, "", "../probe.png")
    with pytest.raises(BadBundleError, match=r"picture_probe: expected '\.\./probe\.png' among the files"):
        decode_manifest(encode_document(manifest))
    assert decode_manifest(encode_document(asked(seeing_bundle, "x"))).picture_probe is not None
