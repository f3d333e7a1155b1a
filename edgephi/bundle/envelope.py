"""DSSE, the "dead simple signing envelope": a payload, what kind of payload it is, and signatures over both.

https://github.com/secure-systems-lab/dsse/blob/master/protocol.md. What is signed is not JSON but one flat
encoding of kind and payload, so that nothing has to be parsed before a signature is checked. Builder and
device read this module, so it needs the standard library only; it knows nothing of keys.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError

PAYLOAD_TYPE = "application/vnd.edgephi.bundle.v1+json"
"""The payload is the bytes of a `bundle.json`; a signature over anything else does not count for a bundle."""

MOST_SIGNATURES = 16
"""A device checks each signature with each of its keys, slowly: it must not be made to check thousands."""

_HINT = f"sign the bundle again with `{edgephi_command('sign')}`, or copy it again from where it was signed"


@dataclass(frozen=True)
class Signature:
    """One signature. `key_id` says which key to try first and is itself not signed: never rely on it."""

    key_id: str
    data: bytes


@dataclass(frozen=True)
class Envelope:
    """The bytes that were signed, and who signed them."""

    payload: bytes
    signatures: tuple[Signature, ...]


def largest_envelope(payload_bytes: int) -> int:
    """The most bytes that the envelope of so large a payload may have: base64, signatures and key ids."""
    return 4 * (payload_bytes // 3 + 1) + 16_384


def signed_bytes(payload: bytes, kind: str = PAYLOAD_TYPE) -> bytes:
    """What a signature is made over, of a bundle or another `kind`: DSSE's pre-authentication encoding."""
    encoded = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(encoded), encoded, len(payload), payload)


def encode_envelope(envelope: Envelope, kind: str = PAYLOAD_TYPE) -> bytes:
    """The bytes of `bundle.dsse.json`, or of the envelope of another kind of payload."""
    document = {
        "payload": base64.b64encode(envelope.payload).decode(),
        "payloadType": kind,
        "signatures": [
            {"keyid": signature.key_id, "sig": base64.b64encode(signature.data).decode()}
            for signature in envelope.signatures
        ],
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def decode_envelope(data: bytes, *, where: str, kind: str = PAYLOAD_TYPE) -> Envelope:
    """Read the bytes of `bundle.dsse.json`, or those over another `kind`; checks no signature.

    Raises BadBundleError when they are no envelope, or one over another kind of payload.
    """

    def fail(problem: str) -> BadBundleError:
        hint = _HINT if kind == PAYLOAD_TYPE else "remove that file, then sign again"
        return BadBundleError(f"{where}: {problem}", hint=hint)

    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise fail("expected a DSSE envelope, found no JSON") from None
    if not isinstance(document, dict):
        raise fail("expected a DSSE envelope, found other JSON")
    found_kind = document.get("payloadType")
    if found_kind != kind:
        raise fail(f"expected payloadType {kind!r}, found {_shown(found_kind)}")
    signatures = document.get("signatures")
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= MOST_SIGNATURES:
        found = len(signatures) if isinstance(signatures, list) else _shown(signatures)
        raise fail(f"expected 1 to {MOST_SIGNATURES} signatures, found {found}")
    read = []
    for signature in signatures:
        known = signature if isinstance(signature, dict) else {}
        key_id = known.get("keyid", "")
        if not isinstance(key_id, str):
            raise fail(f"expected every keyid to be a string, found {_shown(key_id)}")
        signed = _from_base64(known.get("sig"))
        if signed is None:
            raise fail(f"expected every sig in base64, found {_shown(known.get('sig'))}")
        read.append(Signature(key_id, signed))
    payload = _from_base64(document.get("payload"))
    if payload is None:
        raise fail(f"expected a payload in base64, found {_shown(document.get('payload'))}")
    return Envelope(payload, tuple(read))


def _from_base64(text: Any) -> bytes | None:
    """The bytes of standard or URL-safe base64 (DSSE lets a signer choose); None when it is neither."""
    if not isinstance(text, str):
        return None
    try:
        return base64.b64decode(text.translate({ord("-"): "+", ord("_"): "/"}), validate=True)
    except (binascii.Error, ValueError):
        return None


def _shown(value: object) -> str:
    """A value of a stranger's file, short enough for a message of one line."""
    return "none" if value is None else ascii(value if isinstance(value, str) else type(value).__name__)[:60]
