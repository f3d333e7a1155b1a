"""A bill of materials in a file, with its signature beside it, as it is signed and attached to a bundle.

Nothing of CycloneDX's own library is needed to read one: whoever pushes need not have made it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.envelope import decode_envelope, largest_envelope
from edgephi.bundle.manifest import MANIFEST_NAME
from edgephi.bundle.strict_json import decode_strictly
from edgephi.commands import edgephi_command
from edgephi.errors import BadInputError

BILL_TYPE = "application/vnd.cyclonedx+json"
"""What a bill is, for registries and as the payload type of its signature, which no device takes."""

LARGEST_BILL_BYTES = 64 << 20
"""Each file of a bundle takes less than it does in the manifest, and each wheel a little more."""

_SIGNATURE_SUFFIX = ".dsse.json"


@dataclass(frozen=True)
class Bill:
    """The bytes of a bill, and of the envelope that signs them; None where it is not signed."""

    data: bytes
    envelope: bytes | None


def signature_file(file: Path) -> Path:
    """Where the signature of the bill in `file` lies."""
    return file.with_name(file.name + _SIGNATURE_SUFFIX)


def read_bill(file: Path, bundle: Path) -> Bill:
    """Read the bill of the bundle in folder `bundle`, and its signature if there is one.

    Whether a signature is good only those can say who have its key. Raises BadInputError when the file is no
    bill of this bundle, and BadBundleError when the signature is over something else.
    """
    hint = f"make it again: `{edgephi_command('sbom', bundle, '-o', file)}`"
    if not file.is_file():
        raise BadInputError(f"{file}: expected a bill of materials, found no such file", hint=hint)
    data = _read(file, LARGEST_BILL_BYTES, hint)
    sha256 = hashlib.sha256((bundle / MANIFEST_NAME).read_bytes()).hexdigest()
    found = _named_bundle(data)
    if found is None:
        raise BadInputError(f"{file}: expected a bill of materials by CycloneDX, found other data", hint=hint)
    if found != sha256:
        raise BadInputError(f"{file}: expected the bill of bundle {sha256}, found that of {found}", hint=hint)
    signature = signature_file(file)
    if not signature.is_file():
        return Bill(data, None)
    signed = _read(signature, largest_envelope(LARGEST_BILL_BYTES), hint)
    if decode_envelope(signed, where=str(signature), kind=BILL_TYPE).payload != data:
        raise BadInputError(
            f"{signature}: expected a signature over {file.name}, found one over another file",
            hint="remove that file, then sign again: "
            f"`{edgephi_command('sbom', bundle, '-o', file, '--key', 'NAME.key')}`",
        )
    return Bill(data, signed)


def _read(file: Path, most: int, hint: str) -> bytes:
    with file.open("rb") as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise BadInputError(f"{file}: expected at most {most} bytes, found more", hint=hint)
    return data


def _named_bundle(data: bytes) -> str | None:
    """The sha256 of the `bundle.json` that a bill is about; None when it is no bill of a bundle."""
    try:
        document = decode_strictly(data)
        hashes = document["metadata"]["component"]["hashes"]
        named = [each["content"] for each in hashes if each["alg"] == "SHA-256"]
        is_bill = document["bomFormat"] == "CycloneDX" and len(named) == 1
    except (ValueError, LookupError, TypeError):
        return None
    return str(named[0])[:64] if is_bill else None
