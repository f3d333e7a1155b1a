"""Key pairs for signing: made, written so that only their owner reads the secret half, and read again.

Two kinds, both as PEM (PKCS #8, without a passphrase), so that openssl and others read them too:
Ed25519 signs what edgephi's own devices check, ECDSA over P-256 what OpenSSF Model Signing makes, which knows
the NIST curves only.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from edgephi.commands import edgephi_command, shell_command
from edgephi.errors import BadInputError, UsageError
from edgephi.guards.secret_file import read_secret_file
from edgephi.store.trust.public_key import SUFFIX as PUBLIC_SUFFIX
from edgephi.store.trust.public_key import PublicKey

PRIVATE_SUFFIX = ".key"
KeyKind = Literal["ed25519", "p256"]

_CALLED: dict[KeyKind, str] = {"ed25519": "Ed25519", "p256": "ECDSA P-256"}
_MAKING: dict[KeyKind, str] = {
    "ed25519": edgephi_command("keygen", "NAME"),
    "p256": edgephi_command("keygen", "NAME", "--model-signing"),
}
_LARGEST_FILE_BYTES = 65_536


@dataclass(frozen=True)
class KeyFiles:
    """Where the two halves of a key pair are."""

    private: Path
    public: Path


def key_files(name: Path) -> KeyFiles:
    """The files of the pair called `name`: NAME.key and NAME.pub; NAME may end in `.key` already."""
    stem = name.with_suffix("") if name.suffix == PRIVATE_SUFFIX else name
    return KeyFiles(*(stem.with_name(stem.name + suffix) for suffix in (PRIVATE_SUFFIX, PUBLIC_SUFFIX)))


def write_key_pair(name: Path, kind: KeyKind) -> KeyFiles:
    """Make a new key pair and write it. Raises UsageError when one of its files is there already."""
    files = key_files(name)
    for path in (files.private, files.public):
        if os.path.lexists(path):
            raise UsageError(
                f"{path}: expected no such file yet, found one",
                hint="give another name: a secret key that is overwritten is lost for good",
            )
    key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
    if kind == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    else:
        key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with _removed_unless_done(files):
        _write_new(files.private, secret, mode=0o600)
        _write_new(files.public, public, mode=0o644)
    return files


def read_signing_key(path: Path) -> ed25519.Ed25519PrivateKey:
    """The Ed25519 key in file `path`. Raises BadInputError when it is no such key, or others can read it."""
    key = _read_secret(path, "ed25519")
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise _other_kind(path, key, "ed25519")
    return key


def check_model_signing_key(path: Path) -> None:
    """Raise BadInputError unless file `path` holds a P-256 key that nobody else can read."""
    key = _read_secret(path, "p256")
    if not (isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)):
        raise _other_kind(path, key, "p256")


def public_half(key: ed25519.Ed25519PrivateKey) -> PublicKey:
    """The public key that belongs to a secret one."""
    return PublicKey(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def _read_secret(path: Path, kind: KeyKind) -> object:
    """The secret key in file `path`, of whatever kind; the hints say how to make one of `kind`."""
    hint = f"`{_MAKING[kind]}` makes one"
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > _LARGEST_FILE_BYTES:
        raise BadInputError(f"{path}: expected a file with a secret key, found none", hint=hint)
    data = read_secret_file(path, "a secret key")
    try:
        return load_pem_private_key(data, password=None)
    except TypeError:
        without = shell_command("openssl", "pkey", "-in", path, "-out", path.with_name(f"{path.name}.open"))
        raise BadInputError(
            f"{path}: expected a secret key without a passphrase, found one with a passphrase",
            hint=f"`{without}` takes it off",
        ) from None
    except (ValueError, UnsupportedAlgorithm):  # its text may hold some of the file: leave it out
        found = "a public key" if b"PUBLIC KEY" in data else "something else"
        raise BadInputError(f"{path}: expected a secret key in PEM, found {found}", hint=hint) from None


def _other_kind(path: Path, key: object, kind: KeyKind) -> BadInputError:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        found = f"ECDSA {key.curve.name}"
    else:
        found = type(key).__name__.lstrip("_").removesuffix("PrivateKey")
    return BadInputError(
        f"{path}: expected a key of kind {_CALLED[kind]}, found {found}", hint=f"`{_MAKING[kind]}` makes one"
    )


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file that is not there yet; nobody but `mode`'s users can open it at any time."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _removed_unless_done(files: KeyFiles) -> Iterator[None]:
    """Leave no half of a pair when writing the other fails."""
    try:
        yield
    except BaseException as cause:
        if not isinstance(cause, FileExistsError):  # that file is not ours
            files.private.unlink(missing_ok=True)
            files.public.unlink(missing_ok=True)
        raise
