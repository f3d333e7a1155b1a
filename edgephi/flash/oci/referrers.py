"""Small artifacts that refer to another one of the same repository, for tools that ask what belongs to it.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md, "Pushing manifests with subject" and
"Unavailable Referrers API": a registry that keeps the list of what refers to a manifest says so in the header
OCI-Subject. For any other we keep that list ourselves, as an index under a tag made of the subject's digest,
where clients of such registries look for it.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgephi.errors import BadBundleError
from edgephi.flash.oci.blobs import has_blob
from edgephi.flash.oci.connection import RegistryConnection
from edgephi.flash.oci.manifests import INDEX_TYPE, MANIFEST_TYPE, digest_of, read_index, write_manifest
from edgephi.flash.oci.upload import write_blob

_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_EMPTY = b"{}"
_SUBJECT_HEADER = "OCI-Subject"
_TITLE_ANNOTATION = "org.opencontainers.image.title"
_CREATED_ANNOTATION = "org.opencontainers.image.created"


@dataclass(frozen=True)
class Descriptor:
    """How a manifest or a blob is named: its media type, digest and size, and the type of its artifact."""

    media_type: str
    digest: str
    size: int
    artifact_type: str

    @property
    def plain(self) -> dict[str, Any]:
        """As a `subject`."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


def attach(
    connection: RegistryConnection, subject: Descriptor, data: bytes, *, kind: str, title: str, created: str
) -> Descriptor:
    """Put `data` into the repository as an artifact of type `kind` that refers to `subject`.

    `title` is the name of the file that other tools make of it. The same again makes the same artifact.
    Raises BadInputError when we may not write there, BadBundleError when the list of what refers to the
    subject is none, TransportError.
    """
    annotations = {_CREATED_ANNOTATION: created}
    for blob in (_EMPTY, data):
        _send(connection, blob)
    manifest = _encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": kind,
            "config": {"mediaType": _EMPTY_TYPE, "digest": digest_of(_EMPTY), "size": len(_EMPTY)},
            "layers": [
                {
                    "mediaType": kind,
                    "digest": digest_of(data),
                    "size": len(data),
                    "annotations": {_TITLE_ANNOTATION: title},
                }
            ],
            "subject": subject.plain,
            "annotations": annotations,
        }
    )
    referrer = Descriptor(MANIFEST_TYPE, digest_of(manifest), len(manifest), kind)
    headers = write_manifest(connection, manifest, version=referrer.digest)
    if headers.get(_SUBJECT_HEADER) != subject.digest:
        _list_under_tag(connection, subject, referrer, annotations)
    return referrer


def _send(connection: RegistryConnection, data: bytes) -> None:
    if has_blob(connection, digest_of(data)):
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "blob"
        file.write_bytes(data)
        write_blob(connection, digest_of(data), file, lambda _: None)


def _list_under_tag(
    connection: RegistryConnection, subject: Descriptor, referrer: Descriptor, annotations: dict[str, str]
) -> None:
    """Add to the list of what refers to the subject; what others have listed there stays."""
    tag = subject.digest.replace(":", "-")
    listed = _listed(connection, tag)
    if any(isinstance(each, dict) and each.get("digest") == referrer.digest for each in listed):
        return
    own = {**referrer.plain, "artifactType": referrer.artifact_type, "annotations": annotations}
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*listed, own]}
    write_manifest(connection, _encode(index), version=tag, kind=INDEX_TYPE)


def _listed(connection: RegistryConnection, tag: str) -> list[Any]:
    data = read_index(connection, tag)
    if data is None:
        return []
    try:
        listed = json.loads(data)["manifests"]
    except (ValueError, RecursionError, LookupError, TypeError):
        listed = None
    if not isinstance(listed, list):
        raise BadBundleError(
            f"{connection.reference}: expected an index under the tag {tag}, found other data",
            hint="remove that tag there",
        )
    return listed


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
