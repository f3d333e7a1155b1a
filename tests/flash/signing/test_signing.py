"""Key pairs and signatures as they lie on the disk, read by those who did not write them."""

import base64
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from securesystemslib.dsse import Envelope as ReferenceEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from edgephi.bundle.envelope import PAYLOAD_TYPE, decode_envelope
from edgephi.bundle.files import check_files
from edgephi.errors import BadBundleError, BadInputError, UsageError
from edgephi.flash.signing.keys import KeyFiles, check_model_signing_key, read_signing_key, write_key_pair
from edgephi.flash.signing.sign import sign_bundle, sign_model
from edgephi.store.trust.authenticate import authenticate
from edgephi.store.trust.trusted_keys import add_key, read_key_file
from tests.bundle.tiny import write_tiny_bundle

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")


@pytest.fixture
def keys(tmp_path: Path) -> KeyFiles:
    return write_key_pair(tmp_path / "release", "ed25519")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    write_tiny_bundle(folder)
    return folder


def reference_key(files: KeyFiles, key_id: str) -> Key:
    """The public half, as the reference implementation of DSSE reads it."""
    return SSlibKey.from_crypto(serialization.load_pem_public_key(files.public.read_bytes()), keyid=key_id)


# Key files


def test_only_their_owner_can_read_a_secret_key(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files = write_key_pair(tmp_path / "release", "ed25519")
    finally:
        os.umask(before)
    assert stat.S_IMODE(files.private.stat().st_mode) == 0o600
    assert (files.private.name, files.public.name) == ("release.key", "release.pub")


@needs_openssl
def test_openssl_reads_both_halves_and_computes_the_fingerprint(keys: KeyFiles) -> None:
    public = subprocess.run(
        ["openssl", "pkey", "-in", keys.private, "-pubout"], capture_output=True, check=True
    ).stdout
    assert public == keys.public.read_bytes()
    command = f"openssl pkey -pubin -in {keys.public} -outform DER | sha256sum"
    printed = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert printed.split()[0] == read_key_file(keys.public).key.fingerprint


@pytest.mark.parametrize("there", ["release.key", "release.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(UsageError, match=f"{there}: expected no such file yet, found one"):
        write_key_pair(tmp_path / "release", "ed25519")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"


@needs_openssl
def test_keys_of_openssl_are_as_good(tmp_path: Path, bundle: Path) -> None:
    path = tmp_path / "theirs.key"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True)
    path.chmod(0o600)
    sign_bundle(bundle, read_signing_key(path))


def no_key(folder: Path, *arguments: str) -> Path:
    """A key file that openssl made and that does not do."""
    path = folder / "other.key"
    subprocess.run(["openssl", "genpkey", *arguments, "-out", path], check=True, capture_output=True)
    path.chmod(0o600)
    return path


@needs_openssl
def test_other_kinds_of_keys_are_named(tmp_path: Path, keys: KeyFiles) -> None:
    rsa = no_key(tmp_path, "-algorithm", "RSA")
    with pytest.raises(BadInputError, match="expected a key of kind Ed25519, found RSA"):
        read_signing_key(rsa)
    p384 = no_key(tmp_path, "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384")
    with pytest.raises(BadInputError, match="expected a key of kind ECDSA P-256, found ECDSA secp384r1"):
        check_model_signing_key(p384)
    with pytest.raises(BadInputError, match="expected a key of kind ECDSA P-256, found Ed25519"):
        check_model_signing_key(keys.private)


@needs_openssl
def test_a_key_with_a_passphrase_is_refused(tmp_path: Path) -> None:
    path = no_key(tmp_path, "-algorithm", "ed25519", "-aes256", "-pass", "pass:secret")
    with pytest.raises(BadInputError, match="without a passphrase, found one with a passphrase"):
        read_signing_key(path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_secret_key_that_others_can_read_is_refused(keys: KeyFiles, mode: int) -> None:
    keys.private.chmod(mode)
    with pytest.raises(BadInputError, match=rf"\(mode 0600\), found mode {mode:04o}") as refused:
        read_signing_key(keys.private)
    assert "chmod 600" in refused.value.hint


def test_what_is_no_secret_key_is_refused_and_never_shown(tmp_path: Path, keys: KeyFiles) -> None:
    path = tmp_path / "x.key"
    for data in (b"", b"secret words", keys.private.read_bytes()[:70], keys.public.read_bytes()):
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(BadInputError, match="expected a secret key in PEM, found") as refused:
            read_signing_key(path)
        assert "words" not in refused.value.message


# Our signature


def test_the_reference_implementation_of_dsse_accepts_our_envelope(bundle: Path, keys: KeyFiles) -> None:
    fingerprint = sign_bundle(bundle, read_signing_key(keys.private))
    envelope = ReferenceEnvelope.from_dict(json.loads((bundle / "bundle.dsse.json").read_bytes()))
    assert envelope.payload == (bundle / "bundle.json").read_bytes()
    assert envelope.payload_type == PAYLOAD_TYPE
    assert envelope.verify([reference_key(keys, fingerprint)], threshold=1)
    envelope.payload += b" "
    with pytest.raises(VerificationError):
        envelope.verify([reference_key(keys, fingerprint)], threshold=1)


def test_we_accept_an_envelope_of_the_reference_implementation(bundle: Path, keys: KeyFiles) -> None:
    manifest = (bundle / "bundle.json").read_bytes()
    envelope = ReferenceEnvelope(manifest, PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(read_signing_key(keys.private)))
    trust = bundle.parent / "trust"
    trust.mkdir()
    add_key(trust, read_key_file(keys.public))
    assert authenticate(trust, manifest, json.dumps(envelope.to_dict()).encode()) == "release"


@needs_openssl
def test_openssl_accepts_our_signature(bundle: Path, keys: KeyFiles, tmp_path: Path) -> None:
    sign_bundle(bundle, read_signing_key(keys.private))
    document = json.loads((bundle / "bundle.dsse.json").read_bytes())
    payload, kind = base64.b64decode(document["payload"]), document["payloadType"]
    message, signature = tmp_path / "message", tmp_path / "signature"
    # The encoding as the specification of DSSE writes it.
    message.write_bytes(f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload)
    signature.write_bytes(base64.b64decode(document["signatures"][0]["sig"]))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(keys.public)]
    command += ["-rawin", "-in", str(message), "-sigfile", str(signature)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "Signature Verified Successfully")
    message.write_bytes(message.read_bytes() + b" ")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def test_signing_leaves_the_bundle_what_it_was(bundle: Path, keys: KeyFiles) -> None:
    manifest = (bundle / "bundle.json").read_bytes()
    sign_bundle(bundle, read_signing_key(keys.private))
    assert (bundle / "bundle.json").read_bytes() == manifest
    check_files(bundle, write_tiny_bundle(bundle))
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["bundle", "release.key", "release.pub"]


def test_signing_again_gives_the_same_bytes(bundle: Path, keys: KeyFiles) -> None:
    sign_bundle(bundle, read_signing_key(keys.private))
    before = (bundle / "bundle.dsse.json").read_bytes()
    sign_bundle(bundle, read_signing_key(keys.private))
    assert (bundle / "bundle.dsse.json").read_bytes() == before


def test_another_key_signs_beside_the_first(bundle: Path, keys: KeyFiles, tmp_path: Path) -> None:
    both = [keys, write_key_pair(tmp_path / "next", "ed25519")]
    fingerprints = [sign_bundle(bundle, read_signing_key(files.private)) for files in both]
    envelope = ReferenceEnvelope.from_dict(json.loads((bundle / "bundle.dsse.json").read_bytes()))
    known = [reference_key(files, name) for files, name in zip(both, fingerprints, strict=True)]
    assert len(envelope.verify(known, threshold=2)) == 2


def test_a_signature_over_another_manifest_is_not_added_to(bundle: Path, keys: KeyFiles) -> None:
    sign_bundle(bundle, read_signing_key(keys.private))
    write_tiny_bundle(bundle, sequence=4)
    with pytest.raises(BadBundleError, match=r"over this bundle\.json, found some over another"):
        sign_bundle(bundle, read_signing_key(keys.private))


def test_an_envelope_takes_sixteen_signatures(bundle: Path, tmp_path: Path) -> None:
    for number in range(16):
        sign_bundle(bundle, read_signing_key(write_key_pair(tmp_path / str(number), "ed25519").private))
    before = (bundle / "bundle.dsse.json").read_bytes()
    assert len(decode_envelope(before, where="").signatures) == 16
    last = write_key_pair(tmp_path / "last", "ed25519")
    with pytest.raises(BadBundleError, match="expected room for one more signature, found 16"):
        sign_bundle(bundle, read_signing_key(last.private))
    assert (bundle / "bundle.dsse.json").read_bytes() == before


# OpenSSF Model Signing


@pytest.fixture
def their_keys(tmp_path: Path) -> KeyFiles:
    return write_key_pair(tmp_path / "p256", "p256")


def verified_by_its_own_command(bundle: Path, public: Path) -> subprocess.CompletedProcess[str]:
    signature = bundle / "bundle.model-signing.json"
    command = [
        sys.executable,
        "-m",
        "model_signing",
        "verify",
        "key",
        str(bundle),
        "--signature",
        str(signature),
    ]
    return subprocess.run(
        [*command, "--public_key", str(public)], capture_output=True, text=True, check=False
    )


def test_model_signing_verifies_what_we_signed(bundle: Path, keys: KeyFiles, their_keys: KeyFiles) -> None:
    from model_signing import verifying

    sign_model(bundle, their_keys.private)
    sign_bundle(bundle, read_signing_key(keys.private))  # afterwards: neither covers the other
    done = verified_by_its_own_command(bundle, their_keys.public)
    assert (done.returncode, done.stdout.strip()) == (0, "Verification succeeded")
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=their_keys.public)
    verifier.verify(bundle, bundle / "bundle.model-signing.json")


def test_model_signing_sees_each_change(bundle: Path, their_keys: KeyFiles, tmp_path: Path) -> None:
    sign_model(bundle, their_keys.private)
    other = write_key_pair(tmp_path / "other", "p256")
    assert verified_by_its_own_command(bundle, other.public).returncode != 0
    (bundle / "extra").touch()
    assert verified_by_its_own_command(bundle, their_keys.public).returncode != 0
    (bundle / "extra").unlink()
    with (bundle / "bundle.json").open("ab") as file:
        file.write(b" ")
    assert verified_by_its_own_command(bundle, their_keys.public).returncode != 0


def test_model_signing_covers_every_file(bundle: Path, their_keys: KeyFiles) -> None:
    sign_model(bundle, their_keys.private)
    signed = json.loads((bundle / "bundle.model-signing.json").read_bytes())
    statement = json.loads(base64.b64decode(signed["dsseEnvelope"]["payload"]))
    named = {resource["name"] for resource in statement["predicate"]["resources"]}
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    assert named == {"bundle.json", *(entry["path"] for entry in manifest["files"])}
