"""The file of a public key that a store trusts: Ed25519 in PEM, as `openssl pkey -pubout` writes it.

A device reads it without any library: the DER of every Ed25519 key is the same twelve bytes, then the key
(RFC 8410, section 4).
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from edgephi.commands import edgephi_command
from edgephi.errors import BadInputError

SUFFIX = ".pub"
_DER_BEGINNING = bytes.fromhex("302a300506032b6570032100")
_KEY_BYTES = 32
LARGEST_FILE_BYTES = 4096
# The curve of Ed25519: -x² + y² = 1 + d·x²·y² modulo p (RFC 8032, section 5.1).
_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_PEM = re.compile(r"\s*-----BEGIN PUBLIC KEY-----\s+([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----\s*")


@dataclass(frozen=True)
class PublicKey:
    """The 32 bytes of an Ed25519 public key."""

    data: bytes

    @property
    def der(self) -> bytes:
        """The key as SubjectPublicKeyInfo."""
        return _DER_BEGINNING + self.data

    @property
    def pem(self) -> bytes:
        """The key as the text of its file."""
        lines = [b"-----BEGIN PUBLIC KEY-----", base64.b64encode(self.der), b"-----END PUBLIC KEY-----"]
        return b"\n".join([*lines, b""])

    @property
    def fingerprint(self) -> str:
        """What people compare: `openssl pkey -pubin -in KEY.pub -outform DER | sha256sum`."""
        return hashlib.sha256(self.der).hexdigest()


def decode_public_key(data: bytes, *, where: str) -> PublicKey:
    """Read the bytes of a key file. Raises BadInputError when they are not an Ed25519 public key."""
    hint = f"give the file NAME.pub that `{edgephi_command('keygen')}` wrote"
    if b"PRIVATE KEY" in data:
        raise BadInputError(f"{where}: expected a public key, found a private one", hint=f"keep it; {hint}")
    found = _PEM.fullmatch(data[: LARGEST_FILE_BYTES + 1].decode("ascii", errors="replace"))
    if found is None or len(data) > LARGEST_FILE_BYTES:
        raise BadInputError(f"{where}: expected a public key in PEM, found other text", hint=hint)
    try:
        der = base64.b64decode("".join(found[1].split()), validate=True)
    except binascii.Error as cause:
        raise BadInputError(f"{where}: expected a public key in base64, found {cause}", hint=hint) from None
    if not der.startswith(_DER_BEGINNING) or len(der) != len(_DER_BEGINNING) + _KEY_BYTES:
        raise BadInputError(f"{where}: expected an Ed25519 public key, found one of another kind", hint=hint)
    key = PublicKey(der[len(_DER_BEGINNING) :])
    if _has_small_order(key):
        raise BadInputError(
            f"{where}: expected a key that belongs to somebody, found a known weak one", hint=hint
        )
    return key


def _has_small_order(key: PublicKey) -> bool:
    """Whether the key is one of the few points of which a multiple of eight is nothing.

    Anybody can sign for such a key. Its y is 0, 1 or -1, or doubling it gives a point with y = 0, for which
    x² = -y²; in the curve's equation that is d·y⁴ + 2·y² = 1.
    """
    y = int.from_bytes(key.data, "little") % 2**255 % _P  # the highest bit is the sign of x
    return y in (0, 1, _P - 1) or (_D * y**4 + 2 * y**2 - 1) % _P == 0
