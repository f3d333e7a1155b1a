"""Signing a bundle where it was built: for edgephi's devices, and for the tools of OpenSSF Model Signing.

The first signature covers the bytes of `bundle.json`, which names every file with its sha256. The second
covers every file itself, as other tools expect it. Neither changes the bundle: its identity is its manifest.
"""

import os
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.bundle.envelope import (
    MOST_SIGNATURES,
    PAYLOAD_TYPE,
    Envelope,
    Signature,
    decode_envelope,
    encode_envelope,
    signed_bytes,
)
from edgephi.bundle.manifest import MANIFEST_NAME, MODEL_SIGNING_NAME, SIGNATURE_NAME
from edgephi.commands import install_command
from edgephi.errors import BadBundleError, NotSupportedError
from edgephi.flash.signing.keys import public_half


def sign_bundle(bundle: Path, key: Ed25519PrivateKey) -> str:
    """Write `bundle.dsse.json`, beside the signatures that others have made; the key's fingerprint.

    The caller has checked the bundle. Raises BadBundleError when the file is there and is no envelope over
    this manifest.
    """
    manifest = (bundle / MANIFEST_NAME).read_bytes()
    _replace(bundle / SIGNATURE_NAME, signed_envelope(bundle / SIGNATURE_NAME, manifest, key))
    return public_half(key).fingerprint


def signed_envelope(
    path: Path,
    payload: bytes,
    key: Ed25519PrivateKey,
    *,
    kind: str = PAYLOAD_TYPE,
    replaces_others: bool = False,
) -> bytes:
    """The envelope over `payload`, signed, to be written to `path`; signatures that are there stay in it.

    Those over another payload go with `replaces_others`, for a payload that was replaced itself. Raises
    BadBundleError when there is a file that is no envelope, one over another payload, or one without room.
    """
    fingerprint = public_half(key).fingerprint
    existing = _existing_signatures(path, payload, kind, replaces_others=replaces_others)
    others = [each for each in existing if each.key_id != fingerprint]
    signatures = (*others, Signature(fingerprint, key.sign(signed_bytes(payload, kind))))
    if len(signatures) > MOST_SIGNATURES:
        raise BadBundleError(
            f"{path}: expected room for one more signature, found {len(others)} already",
            hint="remove that file and sign with the keys that are in use",
        )
    return encode_envelope(Envelope(payload, signatures), kind)


def sign_model(bundle: Path, key: Path) -> None:
    """Write `bundle.model-signing.json` with the key in file `key`, checked by `check_model_signing_key`.

    Reads every file of the bundle. Raises NotSupportedError when model-signing is not installed.
    """
    try:
        from model_signing import hashing, signing
    except ModuleNotFoundError as cause:
        raise NotSupportedError(
            f"OpenSSF Model Signing needs {cause.name}, which is not installed",
            hint=install_command("model-signing"),
        ) from None
    # What is written into the signature as not covered, so that every verifier leaves it out by itself.
    uncovered = [SIGNATURE_NAME, MODEL_SIGNING_NAME]
    config = signing.Config().use_elliptic_key_signer(private_key=key)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=uncovered))
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / MODEL_SIGNING_NAME
        config.sign(bundle, written)
        _replace(bundle / MODEL_SIGNING_NAME, written.read_bytes())


def _existing_signatures(
    path: Path, payload: bytes, kind: str, *, replaces_others: bool
) -> tuple[Signature, ...]:
    if not path.exists():
        return ()
    envelope = decode_envelope(path.read_bytes(), where=str(path), kind=kind)
    if envelope.payload != payload:
        if replaces_others:
            return ()
        raise BadBundleError(
            f"{path}: expected signatures over this {MANIFEST_NAME}, found some over another",
            hint="remove that file, then sign again",
        )
    return envelope.signatures


def _replace(path: Path, data: bytes) -> None:
    """Write a whole file in one step: a signature that is cut short would make a good bundle unusable."""
    # Beside the bundle, not in it: a dying write leaves nothing in it that the manifest does not know.
    folder = path.absolute().parent
    partial = folder.parent / f".{folder.name}.{path.name}.partial"
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
