"""Whether a key that a store trusts vouches for a bundle, checked before anything of the bundle is read.

Where ROOT/trust has never held a key every bundle is taken, with a key none that is not signed by it.

Signatures are checked with python-ecdsa, which is small, pure Python and can travel to a device as it is. Its
known weakness, timing, concerns secret keys only, and a device has none.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from edgephi.bundle.envelope import Envelope, decode_envelope, largest_envelope, signed_bytes
from edgephi.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME
from edgephi.commands import edgephi_command, install_command
from edgephi.errors import BadBundleError, NotSupportedError
from edgephi.store.trust.public_key import PublicKey
from edgephi.store.trust.trusted_keys import TrustedKey, read_trusted_keys

_SHOWN_DIGITS = 12


def authenticate(
    trust_folder: Path, manifest: bytes, envelope: bytes | None, *, required: bool = False
) -> str | None:
    """The name of the key in `trust_folder` that signed the bytes of a `bundle.json`; None without any key.

    `envelope` is the bundle's `bundle.dsse.json`, None when it has none. `required`: the store remembers that
    there is a key. Nothing of the manifest is parsed. Raises BadBundleError when a key is there and none of
    them signed these bytes, or when the envelope is not over them, with keys or without; BadInputError when a
    key cannot be read, or required keys are lost; NotSupportedError without the library that checks.
    """
    keys = read_trusted_keys(trust_folder, required=required)
    if keys:
        return signer_of(keys, manifest, envelope)
    if envelope is not None:
        _opened(envelope, manifest)
    return None


def signer_of(keys: Sequence[TrustedKey], manifest: bytes, envelope: bytes | None) -> str:
    """The name of the first of `keys` that signed these bytes; raises as `authenticate` does."""
    signed = None if envelope is None else _opened(envelope, manifest)
    trusted = " or ".join(map(str, keys))
    if signed is None:
        raise BadBundleError(
            f"{SIGNATURE_NAME}: expected a signature by {trusted}, found an unsigned bundle",
            hint=f"sign it where it was built: `{edgephi_command('sign', 'BUNDLE', '--key', 'NAME.key')}`",
        )
    for signer in keys:
        if _has_signed(signer.key, signed):
            return signer.name
    raise BadBundleError(
        f"{SIGNATURE_NAME}: expected a signature by {trusted}, found {_found(keys, signed)}",
        hint="sign the bundle with that key, or trust the other: "
        f"`{edgephi_command('trust', 'add', 'ROOT', 'NAME.pub')}`",
    )


def _opened(envelope: bytes, manifest: bytes) -> Envelope:
    """The envelope over the bytes of this manifest. Raises BadBundleError when it is none, or over others."""
    largest = largest_envelope(len(manifest))
    if len(envelope) > largest:
        raise BadBundleError(
            f"{SIGNATURE_NAME}: expected at most {largest} bytes for this manifest, found {len(envelope)}",
            hint="sign the bundle again",
        )
    signed = decode_envelope(envelope, where=SIGNATURE_NAME)
    if signed.payload != manifest:
        expected, found = (hashlib.sha256(data).hexdigest()[:16] for data in (manifest, signed.payload))
        raise BadBundleError(
            f"{SIGNATURE_NAME}: expected a signature over this {MANIFEST_NAME} (sha256 {expected}…), "
            f"found one over another (sha256 {found}…)",
            hint="copy both files from the same bundle, or sign this one",
        )
    return signed


def _has_signed(key: PublicKey, envelope: Envelope) -> bool:
    """Whether one of the signatures is by `key`; those that name another are tried too, last."""
    try:
        from ecdsa import BadSignatureError, Ed25519, VerifyingKey
        from ecdsa.errors import MalformedPointError
    except ModuleNotFoundError as cause:
        raise NotSupportedError(
            f"this store has a key, and checking signatures needs {cause.name}, which is not installed",
            hint=install_command("trust"),
        ) from None
    try:
        verifying = VerifyingKey.from_string(key.data, curve=Ed25519)
    except MalformedPointError:
        return False  # 32 bytes that no secret key belongs to
    message = signed_bytes(envelope.payload)
    for signature in sorted(envelope.signatures, key=lambda each: each.key_id != key.fingerprint):
        try:
            verifying.verify(signature.data, message)
        except BadSignatureError:
            continue
        return True
    return False


def _found(keys: Sequence[TrustedKey], envelope: Envelope) -> str:
    """What the signatures claim to be; their key ids are not signed, so this is a message and no more."""
    claimed = {signature.key_id for signature in envelope.signatures}
    damaged = [str(each) for each in keys if each.key.fingerprint in claimed]
    if damaged:
        return f"one that names {damaged[0]} and is not by it"
    others = ", ".join(f"{ascii(each)[1:-1][:_SHOWN_DIGITS]}…" for each in sorted(claimed))
    return f"signatures by {others}"
