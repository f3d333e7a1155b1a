"""The JSON documents of a bundle: a record with a schema, written the same each time and read strictly.

Standard library only: a device reads them too.
"""

import json
from typing import Any, TypeVar

from edgephi.bundle.strict_json import decode_strictly
from edgephi.errors import BadBundleError
from edgephi.records import read_record, write_record

Document = TypeVar("Document")

HINT = "build the bundle again, or copy it again from where it was built"


def encode_document(document: Any) -> bytes:
    """The bytes of a record: two-space indented UTF-8 JSON with a final newline, the same each time."""
    return (json.dumps(write_record(document), indent=2, ensure_ascii=False) + "\n").encode()


def decode_document(kind: type[Document], data: bytes, schema: str, *, where: str) -> Document:
    """The record of a `kind` that has the field "schema". Raises BadBundleError, which names `where`."""
    try:
        plain = decode_strictly(data)
    except ValueError as cause:
        raise BadBundleError(f"{where}: expected JSON, found {cause}", hint=HINT) from None
    found = plain.get("schema") if isinstance(plain, dict) else None
    if found != schema:
        raise BadBundleError(
            f"{where}: expected schema {schema!r}, found {found!r:.80}",
            hint="use the edgephi version that wrote this bundle, or build it again with this one",
        )
    return read_record(kind, plain, where=where, error=BadBundleError, hint=HINT)
