"""Whom a store trusts: a bundle is taken or refused by the bytes of its manifest and its envelope alone."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, reject
from hypothesis import strategies as st

from edgephi.bundle.envelope import Envelope, Signature, encode_envelope, signed_bytes
from edgephi.bundle.manifest import LARGEST_MANIFEST_BYTES, encode_manifest
from edgephi.errors import BadBundleError, BadInputError, UsageError
from edgephi.flash.signing.keys import public_half
from edgephi.store.agent.frames import HEADER, Kind, frame, read_header
from edgephi.store.trust.authenticate import authenticate
from edgephi.store.trust.change import trust_key
from edgephi.store.trust.public_key import PublicKey, decode_public_key
from edgephi.store.trust.trusted_keys import TrustedKey, add_key, read_trusted_keys, remove_key
from tests.bundle.tiny import tiny_manifest

MANIFEST = encode_manifest(tiny_manifest())
RELEASE, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in (1, 2))


def signed(*keys: Ed25519PrivateKey, payload: bytes = MANIFEST) -> bytes:
    """The envelope over a manifest, signed by each of the keys."""
    return encode_envelope(
        Envelope(
            payload,
            tuple(Signature(public_half(key).fingerprint, key.sign(signed_bytes(payload))) for key in keys),
        )
    )


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A good envelope after a change to its JSON."""
    document = json.loads(signed(RELEASE))
    change(document)
    return json.dumps(document).encode()


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    """A folder that trusts the release key."""
    folder = tmp_path / "trust"
    folder.mkdir()
    add_key(folder, TrustedKey("release", public_half(RELEASE)))
    return folder


# A bundle and the keys


def test_without_a_key_everything_is_taken(tmp_path: Path) -> None:
    assert authenticate(tmp_path / "none", MANIFEST, None) is None
    assert authenticate(tmp_path, MANIFEST, signed(STRANGER)) is None


def test_a_file_that_is_no_signature_is_not_taken_for_one_without_a_key_either(tmp_path: Path) -> None:
    with pytest.raises(BadBundleError, match="expected a DSSE envelope, found no JSON"):
        authenticate(tmp_path, MANIFEST, b"something that a link in the bundle leads to")
    with pytest.raises(BadBundleError, match="over another"):
        authenticate(tmp_path, MANIFEST, signed(RELEASE, payload=b"{}"))


def test_what_the_key_has_signed_is_taken(trust: Path) -> None:
    assert authenticate(trust, MANIFEST, signed(RELEASE)) == "release"


def test_the_largest_signature_fits_into_a_frame_to_the_device(trust: Path) -> None:
    manifest = bytes(LARGEST_MANIFEST_BYTES)
    envelope = signed(RELEASE, payload=manifest)
    assert authenticate(trust, manifest, envelope) == "release"
    assert read_header(frame(Kind.SIGNATURE, envelope)[: HEADER.size]) == (Kind.SIGNATURE, len(envelope))


def test_one_of_several_signatures_is_enough(trust: Path) -> None:
    assert authenticate(trust, MANIFEST, signed(STRANGER, RELEASE)) == "release"


def test_a_key_id_that_is_missing_or_wrong_does_not_matter(trust: Path) -> None:
    for key_id in ("", "release", public_half(STRANGER).fingerprint):
        signature = Signature(key_id, RELEASE.sign(signed_bytes(MANIFEST)))
        assert authenticate(trust, MANIFEST, encode_envelope(Envelope(MANIFEST, (signature,)))) == "release"


def test_url_safe_base64_is_as_good(trust: Path) -> None:
    def url_safe(document: dict[str, Any]) -> None:
        for table, name in ((document, "payload"), (document["signatures"][0], "sig")):
            table[name] = base64.urlsafe_b64encode(base64.b64decode(table[name])).decode()

    assert authenticate(trust, MANIFEST, changed(url_safe)) == "release"


def test_an_unsigned_bundle_is_refused(trust: Path) -> None:
    with pytest.raises(
        BadBundleError, match=r"expected a signature by release \(.{12}…\), found an unsigned"
    ):
        authenticate(trust, MANIFEST, None)


def test_another_key_is_refused(trust: Path) -> None:
    found = f"found signatures by {public_half(STRANGER).fingerprint[:12]}"
    with pytest.raises(BadBundleError, match=found):
        authenticate(trust, MANIFEST, signed(STRANGER))


def test_a_signature_over_another_manifest_is_refused(trust: Path) -> None:
    other = encode_manifest(tiny_manifest(sequence=4))
    with pytest.raises(BadBundleError, match=r"expected a signature over this bundle\.json .* over another"):
        authenticate(trust, MANIFEST, signed(RELEASE, payload=other))


def test_a_manifest_that_reads_the_same_in_other_bytes_is_refused(trust: Path) -> None:
    with pytest.raises(BadBundleError, match="over another"):
        authenticate(trust, json.dumps(json.loads(MANIFEST)).encode(), signed(RELEASE))


def test_a_signature_that_only_claims_the_key_is_refused(trust: Path) -> None:
    forged = Signature(public_half(RELEASE).fingerprint, STRANGER.sign(signed_bytes(MANIFEST)))
    with pytest.raises(BadBundleError, match=r"found one that names release .* and is not by it"):
        authenticate(trust, MANIFEST, encode_envelope(Envelope(MANIFEST, (forged,))))


def test_a_signature_over_the_bare_manifest_is_refused(trust: Path) -> None:
    bare = Signature("", RELEASE.sign(MANIFEST))
    with pytest.raises(BadBundleError, match="expected a signature by release"):
        authenticate(trust, MANIFEST, encode_envelope(Envelope(MANIFEST, (bare,))))


BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "nested": b"[" * 20_000,
    "a list": b"[]",
    "an empty table": b"{}",
    "another payload type": changed(lambda d: d.update(payloadType="application/vnd.in-toto+json")),
    "a payload type that is none": changed(lambda d: d.update(payloadType=["a"] * 1000)),
    "no signatures": changed(lambda d: d.update(signatures=[])),
    "signatures that are a table": changed(lambda d: d.update(signatures={})),
    "a signature that is a number": changed(lambda d: d.update(signatures=[1])),
    "a key id that is a table": changed(lambda d: d["signatures"][0].update(keyid={})),
    "a signature without sig": changed(lambda d: d["signatures"][0].pop("sig")),
    "a sig that is no base64": changed(lambda d: d["signatures"][0].update(sig="\x1b[2J")),
    "a sig of ten bytes": changed(lambda d: d["signatures"][0].update(sig="AAAAAAAAAAAAAA==")),
    "a sig of zeros": changed(lambda d: d["signatures"][0].update(sig=base64.b64encode(bytes(64)).decode())),
    "too many signatures": changed(lambda d: d.update(signatures=d["signatures"] * 17)),
    "no payload": changed(lambda d: d.pop("payload")),
    "a payload that is no base64": changed(lambda d: d.update(payload="no base64!")),
    "far too large": signed(RELEASE) + b" " * 100_000,
}


@pytest.mark.parametrize("envelope", BROKEN.values(), ids=BROKEN)
def test_a_broken_envelope_is_refused_in_one_short_line(trust: Path, envelope: bytes) -> None:
    with pytest.raises(BadBundleError, match=r"^bundle\.dsse\.json: expected .+, found .+") as refused:
        authenticate(trust, MANIFEST, envelope)
    assert len(refused.value.message) < 250
    assert refused.value.message.isprintable()


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    from edgephi.bundle.envelope import decode_envelope

    with pytest.raises(BadBundleError):
        decode_envelope(data, where="x")


@given(place=st.integers(0, 63), bit=st.integers(0, 7))
def test_no_changed_bit_of_a_signature_passes(
    place: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("trust")
    add_key(folder, TrustedKey("release", public_half(RELEASE)))
    data = bytearray(RELEASE.sign(signed_bytes(MANIFEST)))
    data[place] ^= 1 << bit
    with pytest.raises(BadBundleError, match="expected a signature by release"):
        authenticate(folder, MANIFEST, encode_envelope(Envelope(MANIFEST, (Signature("", bytes(data)),))))


@given(key=st.binary(min_size=32, max_size=32), signature=st.binary(min_size=64, max_size=64))
def test_random_keys_and_signatures_are_judged_as_openssl_judges_them(
    key: bytes, signature: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    try:
        trusted = TrustedKey("any", decode_public_key(PublicKey(key).pem, where="x"))
    except BadInputError:
        reject()  # a weak key: openssl takes signatures by it
    folder = tmp_path_factory.mktemp("trust")
    add_key(folder, trusted)
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed_bytes(MANIFEST))
    with pytest.raises(BadBundleError):
        authenticate(folder, MANIFEST, encode_envelope(Envelope(MANIFEST, (Signature("", signature),))))


def test_without_the_library_a_store_with_a_key_takes_nothing(trust: Path, tmp_path: Path) -> None:
    (tmp_path / "envelope").write_bytes(signed(RELEASE))
    (tmp_path / "manifest").write_bytes(MANIFEST)
    code = (
        "import sys; sys.modules['ecdsa'] = None\n"
        "from pathlib import Path\n"
        "from edgephi.errors import NotSupportedError\n"
        "from edgephi.store.trust.authenticate import authenticate\n"
        "trust, manifest, envelope = map(Path, sys.argv[1:])\n"
        "try:\n    authenticate(trust, manifest.read_bytes(), envelope.read_bytes())\n"
        "except NotSupportedError as refused:\n    print(refused.message)\n"
    )
    paths = (trust, tmp_path / "manifest", tmp_path / "envelope")
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert "checking signatures needs ecdsa, which is not installed" in done.stdout


# The keys


def test_keys_are_listed_by_name(trust: Path) -> None:
    add_key(trust, TrustedKey("backup", public_half(STRANGER)))
    assert [each.name for each in read_trusted_keys(trust)] == ["backup", "release"]
    assert authenticate(trust, MANIFEST, signed(STRANGER)) == "backup"


def test_a_key_is_not_added_twice(trust: Path) -> None:
    known = add_key(trust, TrustedKey("again", public_half(RELEASE)))
    assert known.name == "release"
    assert len(read_trusted_keys(trust)) == 1


def test_a_name_keeps_its_key(trust: Path) -> None:
    with pytest.raises(UsageError, match="expected no key called 'release' yet"):
        add_key(trust, TrustedKey("release", public_half(STRANGER)))


def test_the_last_key_goes_only_when_that_is_said(trust: Path) -> None:
    with pytest.raises(UsageError, match="is the last"):
        remove_key(trust, "release", also_the_last=False)
    add_key(trust, TrustedKey("backup", public_half(STRANGER)))
    assert remove_key(trust, public_half(RELEASE).fingerprint[:8], also_the_last=False).name == "release"
    with pytest.raises(BadBundleError, match="expected a signature by backup"):
        authenticate(trust, MANIFEST, signed(RELEASE))
    remove_key(trust, "backup", also_the_last=True)
    assert authenticate(trust, MANIFEST, None) is None


@pytest.mark.parametrize("which", ["", "nobody", "0" * 64, "1"])
def test_a_key_that_is_not_there_cannot_be_removed(trust: Path, which: str) -> None:
    with pytest.raises(UsageError, match="expected the name or fingerprint"):
        remove_key(trust, which, also_the_last=True)


def test_what_a_power_cut_leaves_of_a_new_key_is_not_a_key(trust: Path) -> None:
    (trust / ".backup.pub").write_bytes(b"-----BEGIN PUB")
    assert [each.name for each in read_trusted_keys(trust)] == ["release"]


PEM = public_half(RELEASE).pem
NO_KEYS: dict[str, tuple[str, bytes]] = {
    "another suffix": ("release.pem", PEM),
    "a note": ("README", b"keys of the release team\n"),
    "an empty file": ("a.pub", b""),
    "a cut file": ("a.pub", PEM[:60]),
    "no base64": ("a.pub", PEM.replace(b"MCow", b"=Cow")),
    "another kind of key": ("a.pub", PEM.replace(b"MCowBQYDK2Vw", b"MCowBQYDK2Vx")),
    "two keys": ("a.pub", PEM + PEM),
    "a large file": ("a.pub", PEM + b" " * 5000),
    "an ssh key": ("a.pub", b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB user@host\n"),
    "a secret key": ("a.pub", b"-----BEGIN PRIVATE KEY-----\n"),
}


@pytest.mark.parametrize(("name", "data"), NO_KEYS.values(), ids=NO_KEYS)
def test_a_file_that_is_no_key_closes_the_store(trust: Path, name: str, data: bytes) -> None:
    (trust / name).write_bytes(data)
    with pytest.raises(BadInputError, match=rf"{name}: expected .*key.*, found") as refused:
        authenticate(trust, MANIFEST, signed(RELEASE))
    assert refused.value.exit_code == 4


@pytest.mark.parametrize(("name", "data"), NO_KEYS.values(), ids=NO_KEYS)
def test_who_adds_a_key_beside_it_is_not_told_to_give_another_key(
    trust: Path, name: str, data: bytes
) -> None:
    """The key that was given is right: the file that lies in the store is not."""
    (trust / name).write_bytes(data)
    before = sorted(trust.iterdir())
    with pytest.raises(BadInputError, match=rf"{name}: expected .*key.*, found") as refused:
        trust_key(trust.parent, "next.pub", public_half(STRANGER).pem)
    assert refused.value.hint.startswith("move it elsewhere, or put it right")
    assert sorted(trust.iterdir()) == before


# All encodings of points of order 1, 2, 4 and 8: table 6 of "Taming the many EdDSAs" (Chalkias et al., 2020).
WEAK_KEYS = [
    "01" + "00" * 31,
    "01" + "00" * 30 + "80",
    "ee" + "ff" * 30 + "7f",
    "ee" + "ff" * 31,
    "ec" + "ff" * 30 + "7f",
    "ec" + "ff" * 31,
    "00" * 32,
    "00" * 31 + "80",
    "ed" + "ff" * 30 + "7f",
    "ed" + "ff" * 31,
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]


@pytest.mark.parametrize("encoded", WEAK_KEYS)
def test_a_key_for_which_anybody_can_sign_is_refused(encoded: str) -> None:
    with pytest.raises(BadInputError, match="found a known weak one"):
        decode_public_key(PublicKey(bytes.fromhex(encoded)).pem, where="x")


def test_a_key_file_says_the_same_in_every_layout_of_pem() -> None:
    for text in (PEM, PEM.replace(b"\n", b"\r\n"), b"\n" + PEM, PEM.rstrip()):
        assert decode_public_key(text, where="x") == public_half(RELEASE)
