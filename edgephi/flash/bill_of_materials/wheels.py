"""The wheels of a bundle as components: what a device installs from it, with the licences that they declare.

The file name of a wheel says what it is (https://packaging.python.org/en/latest/specifications/
binary-distribution-format/), its METADATA under which licence (…/core-metadata/).
"""

import email.parser
import re
import zipfile
import zlib
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import (
    DisjunctiveLicense,
    License,
    LicenseAcknowledgement,
    LicenseExpression,
)
from cyclonedx.spdx import fixup_id, is_expression
from packageurl import PackageURL

from edgephi.bundle.chunks import FileEntry
from edgephi.bundle.document import HINT
from edgephi.bundle.unfinished import file_sha256
from edgephi.commands import PROGRAM
from edgephi.errors import BadBundleError

WHEEL_SUFFIX = ".whl"

_LARGEST_METADATA_BYTES = 1 << 20
_LONGEST_LICENCE = 100
"""What is longer is the text of a licence, not its name."""
_CLASSIFIER = "License :: "
_METADATA = ".dist-info/METADATA"
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What pip's own wheels have. Each other one would bring errors of its own."""

_BROKEN = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # a later version of the format
    OSError,  # an offset that is none
    RuntimeError,  # encrypted
    ValueError,
)
"""What reading an archive raises that is none, or not whole."""

_DECLARED = LicenseAcknowledgement.DECLARED


def wheel_component(bundle: Path, entry: FileEntry) -> Component:
    """The component of a wheel of a bundle; its file is held against the manifest before it is opened.

    edgephi's own has no package URL: it is on no index, and somebody else may take its name there. Raises
    BadBundleError when the file is another one, or no wheel.
    """
    file = bundle / entry.path
    parts = file.name.removesuffix(WHEEL_SUFFIX).split("-")
    if len(parts) < 5 or not all(parts):
        raise BadBundleError(f"{file}: expected NAME-VERSION-TAGS.whl, found another name", hint=HINT)
    name, version = re.sub(r"[-_.]+", "-", parts[0]).lower(), parts[1]
    found = file_sha256(file)
    if found != entry.sha256:
        raise BadBundleError(f"{file}: expected sha256 {entry.sha256}, found {found}", hint=HINT)
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        bom_ref=entry.path,
        purl=None if name == PROGRAM else PackageURL("pypi", None, name, version, {"file_name": file.name}),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=entry.sha256)],
        licenses=list(_licences(_metadata(file))),
    )


def _metadata(file: Path) -> Message:
    """The fields of a wheel's METADATA."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = (each for each in archive.infolist() if each.filename.count("/") == 1)
            entry = next((each for each in entries if each.filename.endswith(_METADATA)), None)
            if entry is None:
                raise BadBundleError(f"{file}: expected METADATA in the wheel, found none", hint=HINT)
            if entry.compress_type not in _COMPRESSIONS:
                raise BadBundleError(
                    f"{file}: expected METADATA stored or deflated, found method {entry.compress_type}",
                    hint=HINT,
                )
            with archive.open(entry) as stream:
                data = stream.read(_LARGEST_METADATA_BYTES)
    except _BROKEN as cause:
        raise BadBundleError(f"{file}: expected a wheel, found {cause}", hint=HINT) from None
    return email.parser.HeaderParser().parsestr(data.decode(errors="replace"))


def _licences(metadata: Message) -> Iterator[License]:
    """What a wheel says of its licence: in SPDX's words, else in its own, else by its classifiers.

    A list holds one expression or any number of others, as CycloneDX wants it.
    """
    for field in ("License-Expression", "License"):
        text = str(metadata.get(field, "")).strip()
        if text and len(text) <= _LONGEST_LICENCE and text.isprintable() and text != "UNKNOWN":
            yield _licence(text)
            return
    classifiers = (str(each).strip() for each in metadata.get_all("Classifier", []))
    for name in sorted({each.rpartition(" :: ")[2] for each in classifiers if each.startswith(_CLASSIFIER)}):
        yield DisjunctiveLicense(name=name, acknowledgement=_DECLARED)


def _licence(text: str) -> License:
    known = fixup_id(text)
    if known is not None:
        return DisjunctiveLicense(id=known, acknowledgement=_DECLARED)
    if is_expression(text):
        return LicenseExpression(text, acknowledgement=_DECLARED)
    return DisjunctiveLicense(name=text, acknowledgement=_DECLARED)
