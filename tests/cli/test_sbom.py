"""`edgephi sbom`: a bill of materials, printed or written, and signed as bundles are."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from securesystemslib.dsse import Envelope as ReferenceEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Key, SSlibKey

from edgephi.bundle.envelope import decode_envelope
from edgephi.errors import BadBundleError
from edgephi.store.trust.trusted_keys import read_key_file
from tests.bundle.tiny import write_tiny_bundle
from tests.cli.conftest import Edgephi, is_one_error

BILL_TYPE = "application/vnd.cyclonedx+json"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_tiny_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def keys(edgephi: Edgephi, tmp_path: Path) -> list[Path]:
    for name in ("release", "next"):
        assert edgephi("keygen", tmp_path / name).returncode == 0
    return [tmp_path / "release.key", tmp_path / "next.key"]


def signed_by(file: Path, *public: Path) -> bytes:
    """The payload of an envelope that all these keys have signed, by the reference implementation of DSSE."""
    envelope = ReferenceEnvelope.from_dict(json.loads(file.read_bytes()))
    assert envelope.payload_type == BILL_TYPE
    keys: list[Key] = [
        SSlibKey.from_crypto(
            serialization.load_pem_public_key(each.read_bytes()), keyid=read_key_file(each).key.fingerprint
        )
        for each in public
    ]
    envelope.verify(keys, threshold=len(keys))
    return bytes(envelope.payload)


def test_it_prints_what_it_would_write(edgephi: Edgephi, bundle: Path, tmp_path: Path) -> None:
    printed = edgephi("sbom", bundle)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert json.loads(printed.stdout)["bomFormat"] == "CycloneDX"
    assert edgephi("sbom", bundle, "--json").stdout == printed.stdout
    done = edgephi("sbom", bundle, "-o", "bundle.cdx.json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "bill of materials: bundle.cdx.json\n")
    assert (tmp_path / "bundle.cdx.json").read_text() == printed.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "bundle.cdx.json"]


def test_the_key_signs_exactly_what_was_written(
    edgephi: Edgephi, bundle: Path, keys: list[Path], tmp_path: Path
) -> None:
    done = edgephi("sbom", bundle, "-o", "b.cdx.json", "--key", keys[0], "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert document["written"] == ["b.cdx.json", "b.cdx.json.dsse.json"]
    assert re.fullmatch("[0-9a-f]{64}", document["fingerprint"])
    signed = tmp_path / "b.cdx.json.dsse.json"
    assert signed_by(signed, keys[0].with_suffix(".pub")) == (tmp_path / "b.cdx.json").read_bytes()
    with pytest.raises(VerificationError):
        signed_by(signed, keys[1].with_suffix(".pub"))


def test_a_device_takes_no_signature_of_a_bill_for_one_of_a_bundle(
    edgephi: Edgephi, bundle: Path, keys: list[Path], tmp_path: Path
) -> None:
    edgephi("sbom", bundle, "-o", "b.cdx.json", "--key", keys[0], cwd=tmp_path)
    signed = (tmp_path / "b.cdx.json.dsse.json").read_bytes()
    with pytest.raises(BadBundleError, match=r"expected payloadType 'application/vnd\.edgephi\.bundle"):
        decode_envelope(signed, where="bundle.dsse.json")


def test_a_second_key_signs_beside_the_first(
    edgephi: Edgephi, bundle: Path, keys: list[Path], tmp_path: Path
) -> None:
    for key in (*keys, keys[1]):
        assert edgephi("sbom", bundle, "-o", "b.cdx.json", "--key", key, cwd=tmp_path).returncode == 0
    signed = tmp_path / "b.cdx.json.dsse.json"
    assert len(json.loads(signed.read_bytes())["signatures"]) == 2
    signed_by(signed, *(key.with_suffix(".pub") for key in keys))


def test_the_next_release_has_signatures_of_its_own(
    edgephi: Edgephi, bundle: Path, keys: list[Path], tmp_path: Path
) -> None:
    edgephi("sbom", bundle, "-o", "b.cdx.json", "--key", keys[0], cwd=tmp_path)
    shutil.rmtree(bundle)
    write_tiny_bundle(bundle, sequence=4)
    edgephi("sbom", bundle, "-o", "b.cdx.json", "--key", keys[1], cwd=tmp_path)
    signed = tmp_path / "b.cdx.json.dsse.json"
    assert len(json.loads(signed.read_bytes())["signatures"]) == 1
    assert signed_by(signed, keys[1].with_suffix(".pub")) == (tmp_path / "b.cdx.json").read_bytes()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_anybody_can_check_it_as_docs_signing_says(
    edgephi: Edgephi, bundle: Path, keys: list[Path], tmp_path: Path
) -> None:
    edgephi("sbom", bundle, "-o", "b.cdx.json", "--key", keys[0], cwd=tmp_path)
    envelope = json.loads((tmp_path / "b.cdx.json.dsse.json").read_bytes())
    data = (tmp_path / "b.cdx.json").read_bytes()
    message = f"DSSEv1 {len(BILL_TYPE)} {BILL_TYPE} {len(data)} ".encode() + data
    (tmp_path / "message").write_bytes(message)
    (tmp_path / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    public = str(keys[0].with_suffix(".pub"))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin"]
    subprocess.run(
        [*command, "-in", "message", "-sigfile", "signature"], cwd=tmp_path, check=True, capture_output=True
    )


def test_a_store_means_its_active_bundle(edgephi: Edgephi, demo_bundle: Path, tmp_path: Path) -> None:
    """A box tells what it runs, in the bytes of whoever released it."""
    flashed = edgephi("flash", demo_bundle, tmp_path / "store", "--elsewhere")
    assert flashed.returncode == 0, flashed.stderr
    of_store = edgephi("sbom", tmp_path / "store")
    assert of_store.returncode == 0, of_store.stderr
    assert of_store.stdout == edgephi("sbom", demo_bundle).stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code", "found"),
    [
        (("none",), 4, "expected a bundle, found no such folder"),
        (("bundle", "--key", "release.key"), 2, "--key: expected -o FILE with it"),
        (("bundle", "-o", "bundle/inside"), 2, "found it within the bundle"),
        (("bundle", "-o", "none/b.json"), 4, "none/b.json"),
        (("bundle", "-o", "b.json", "--key", "release.pub"), 4, "release.pub"),
        (("bundle", "-o", "b.json", "--key", "none.key"), 4, "none.key"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(
    edgephi: Edgephi,
    bundle: Path,
    keys: list[Path],
    tmp_path: Path,
    arguments: tuple[str, ...],
    exit_code: int,
    found: str,
) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = edgephi("sbom", *arguments, cwd=tmp_path)
    assert is_one_error(done, exit_code), done.stderr
    assert found in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bundle_with_a_file_missing_has_no_bill(edgephi: Edgephi, bundle: Path) -> None:
    (bundle / "model" / "model.onnx").unlink()
    done = edgephi("sbom", bundle)
    assert is_one_error(done, 4), done.stderr
    assert "model/model.onnx: expected a file of 5 bytes, found none" in done.stderr


def test_without_the_extra_it_says_which(edgephi: Edgephi, bundle: Path) -> None:
    before = "import sys; sys.modules['cyclonedx'] = None"
    done = edgephi("sbom", bundle, before=before)
    assert is_one_error(done, 3), done.stderr
    assert "cyclonedx" in done.stderr
    assert "sbom" in done.stderr.splitlines()[1]
