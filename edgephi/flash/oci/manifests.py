"""Read and write the manifest of an artifact: the small document that names its blobs by their digests."""

import hashlib

import httpx2

from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError, BadInputError
from edgephi.flash.oci.connection import RegistryConnection, UnavailableError
from edgephi.guards.wire_watch import allowing

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"

_INDEX_TYPES = (
    INDEX_TYPE,
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_LARGEST_BYTES = 4 << 20  # every registry takes as much, and need not take more
_DIGEST_HEADER = "Docker-Content-Digest"
_HINT = f"give what `{edgephi_command('push')}` wrote"


def digest_of(data: bytes) -> str:
    """How a registry names these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def read_manifest(connection: RegistryConnection) -> bytes:
    """The manifest under the connection's reference, held against the digests that are known for it.

    Raises BadInputError when there is none or we may not read it, BadBundleError when it is not the manifest
    of one artifact, TransportError.
    """
    reference = connection.reference
    data, promised = connection.retried(lambda: _receive(connection))
    for expected in (reference.version if reference.by_digest else "", promised):
        if expected.startswith("sha256:") and expected != digest_of(data):
            raise connection.damaged("manifest", expected, digest_of(data))
    return data


def _receive(connection: RegistryConnection) -> tuple[bytes, str]:
    """The manifest, and the digest that the registry promises for it."""
    with connection.client.stream(
        "GET",
        _address(connection),
        headers={"Accept": ", ".join((MANIFEST_TYPE, *_INDEX_TYPES))},
        extensions=allowing(size=None),
    ) as response:
        connection.check(response)
        data = _received(connection, response, MANIFEST_TYPE, hint=_HINT)
        return data, response.headers.get(_DIGEST_HEADER, "")


def has_manifest(connection: RegistryConnection, digest: str) -> bool:
    """Whether the reference names the manifest with this digest already."""

    def ask() -> bool:
        response = connection.client.head(_address(connection), headers={"Accept": MANIFEST_TYPE})
        if response.status_code != httpx2.codes.NOT_FOUND:
            connection.check(response)
        return response.is_success and response.headers.get(_DIGEST_HEADER) == digest

    return connection.retried(ask)


def write_manifest(
    connection: RegistryConnection, data: bytes, *, version: str | None = None, kind: str = MANIFEST_TYPE
) -> httpx2.Headers:
    """Put a manifest under the reference, or another tag or digest as `version`; the answer's headers.

    Every blob that it names must be there. Raises BadInputError for one that is too large.
    """
    if len(data) > _LARGEST_BYTES:
        raise BadInputError(
            f"{connection.reference}: expected a manifest of at most {_LARGEST_BYTES} bytes, "
            f"found {len(data)}",
            hint="a bundle of fewer files, such as one without wheels, has a smaller one",
        )

    def put() -> httpx2.Response:
        response = connection.client.put(
            _address(connection, version), content=data, headers={"Content-Type": kind}
        )
        connection.check(response)
        if response.status_code != httpx2.codes.CREATED:  # such as the page of a hotel's network
            raise UnavailableError(response)
        return response

    response = connection.retried(put)
    stored = response.headers.get(_DIGEST_HEADER, digest_of(data))
    if stored != digest_of(data):
        raise connection.damaged("manifest", digest_of(data), stored)
    return response.headers


def read_index(connection: RegistryConnection, tag: str) -> bytes | None:
    """The index of manifests under a tag of the same repository; None where there is no such tag.

    Raises BadBundleError when something else is under it, BadInputError, TransportError.
    """

    def receive() -> bytes | None:
        with connection.client.stream(
            "GET",
            _address(connection, tag),
            # Asked for an index alone, Docker's registry says of anything else that it is not there.
            headers={"Accept": f"{INDEX_TYPE}, {MANIFEST_TYPE}"},
            extensions=allowing(size=None),
        ) as response:
            if response.status_code == httpx2.codes.NOT_FOUND:
                return None
            connection.check(response)
            return _received(connection, response, INDEX_TYPE, hint=f"remove the tag {tag} there")

    return connection.retried(receive)


def _received(
    connection: RegistryConnection, response: httpx2.Response, expected_kind: str, *, hint: str
) -> bytes:
    """The body of an answer, which must be of this kind and not too large."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
    if kind != expected_kind:
        raise BadBundleError(
            f"{connection.reference}: expected a manifest of type {expected_kind}, found {kind or 'none'}",
            hint=hint,
        )
    data = bytearray()
    for part in response.iter_raw():
        data += part
        if len(data) > _LARGEST_BYTES:
            raise BadBundleError(
                f"{connection.reference}: expected a manifest of at most {_LARGEST_BYTES} bytes, found more",
                hint=hint,
            )
    return bytes(data)


def _address(connection: RegistryConnection, version: str | None = None) -> httpx2.URL:
    return connection.base.join(f"manifests/{version or connection.reference.version}")
