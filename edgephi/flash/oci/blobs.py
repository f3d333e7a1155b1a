"""Read the blobs of an artifact: any range of any of them, through cuts, without holding one in memory."""

import re
from collections.abc import Iterator

import httpx2

from edgephi.errors import TransportError
from edgephi.flash.oci.connection import HINT_AGAIN, RETRIED, RegistryConnection, UnavailableError
from edgephi.flash.oci.manifests import digest_of
from edgephi.guards.wire_watch import allowing

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(?:\d+|\*)")


def has_blob(connection: RegistryConnection, digest: str) -> bool:
    """Whether the registry has this blob for this repository."""

    def ask() -> bool:
        response = connection.client.head(connection.base.join(f"blobs/{digest}"))
        if response.status_code != httpx2.codes.NOT_FOUND:
            connection.check(response)
            if response.status_code != httpx2.codes.OK:
                raise UnavailableError(response)
        return response.is_success

    return connection.retried(ask)


def read_whole_blob(connection: RegistryConnection, digest: str, size: int) -> bytes:
    """A blob that is small enough to hold. Raises TransportError when it is not what its digest says."""
    data = b"".join(read_blob(connection, digest, 0, size))
    if digest_of(data) != digest:
        raise connection.damaged("blob", digest, digest_of(data))
    return data


def read_blob(connection: RegistryConnection, digest: str, start: int, end: int) -> Iterator[bytes]:
    """The bytes of a blob from `start` up to `end`, as they arrive: nothing has compared them yet.

    After a cut, only what has not arrived is asked for again. Raises BadInputError when there is no such
    blob, TransportError when too many attempts in a row brought nothing.
    """
    address = connection.base.join(f"blobs/{digest}")
    failures = 0
    with connection.errors(), connection.watch.operation():
        while start < end:
            try:
                headers = {"Range": f"bytes={start}-{end - 1}"}
                with connection.client.stream(
                    "GET", address, headers=headers, extensions=allowing(size=None)
                ) as response:
                    connection.check(response)
                    for data in _wanted(connection, response, start, end):
                        failures = 0
                        start += len(data)
                        yield data
                if start < end:
                    raise httpx2.RemoteProtocolError("the answer ended too early")
            except RETRIED as cause:
                failures += connection.weight
                connection.pause_or_raise(failures, cause)


def _wanted(
    connection: RegistryConnection, response: httpx2.Response, start: int, end: int
) -> Iterator[bytes]:
    """The part of an answer that was asked for: a registry may send the whole blob instead, or more."""
    position = start if response.status_code == httpx2.codes.PARTIAL_CONTENT else 0
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if position and (match is None or int(match[1]) != start):
        raise TransportError(
            f"{connection.reference}: expected bytes from {start} on, "
            f"found {response.headers.get('Content-Range', 'no Content-Range')!r}",
            hint=HINT_AGAIN,
        )
    for data in response.iter_raw():
        following = position + len(data)
        if following > start:
            yield data[max(start - position, 0) : end - position]
        position = following
        if position >= end:
            return
