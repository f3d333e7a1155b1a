"""Send a file to a registry as a blob, through cuts, without holding it in memory.

A blob goes in one streamed PATCH and a PUT that ends it, as docker sends its layers: every registry is used
to that. After a cut the registry is asked how much has arrived, and gets the rest.
"""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2

from edgephi.errors import BadBundleError
from edgephi.flash.oci.blobs import has_blob
from edgephi.flash.oci.connection import RETRIED, RegistryConnection, UnavailableError
from edgephi.guards.wire_watch import WireWatch, allowing

Progress = Callable[[int], None]

# A slow line must be seen to take some of it, a quick one shall not stop for each piece.
_SMALLEST_BUFFER_BYTES = 1 << 14
_LARGEST_BUFFER_BYTES = 1 << 18
_QUICK_SECONDS = 0.5
# A registry answers the end of an upload when its storage has the blob, which can be a copy of all of it.
_END_SECONDS = 20.0
_SLOWEST_COPY = 5e6  # bytes per second
_RECEIVED = re.compile(r"(?:bytes=)?0-(\d+)")


def write_blob(connection: RegistryConnection, digest: str, file: Path, progress: Progress) -> None:
    """Send `file` as the blob with this digest; `progress` is told how many more bytes have been sent.

    A negative number of bytes takes back those that a cut has lost. Raises BadBundleError when the file is
    not what its digest says, BadInputError when we may not write here, TransportError.
    """
    upload = _Upload(connection, file, progress)
    failures = 0
    with connection.errors(), connection.watch.operation():
        while True:
            reached = upload.confirmed
            try:
                upload.begin_or_resume()
                upload.send_rest()
                upload.end(digest)
            except RETRIED as cause:
                failures = 1 if upload.confirmed > reached else failures + connection.weight
                connection.pause_or_raise(failures, cause, begins_anew=True)
                # Its answer may be all that was lost.
                if has_blob(connection, digest):
                    return
            else:
                return


class _Upload:
    """One file on its way. `confirmed` counts the bytes that the registry has said it has."""

    def __init__(self, connection: RegistryConnection, file: Path, progress: Progress) -> None:
        self._connection = connection
        self._file = file
        self._size = file.stat().st_size
        self._progress = progress
        self._told = 0
        self._was_cut = False
        self._address: httpx2.URL | None = None
        self.confirmed = 0

    def begin_or_resume(self) -> None:
        """Have an address to send to, and know from which byte on."""
        self.confirmed = 0
        if self._address is not None:
            self._was_cut = True
            response = self._connection.client.get(self._address)
            match = _RECEIVED.fullmatch(response.headers.get("Range", ""))
            # "0-0" is what docker's registry says of no byte as well as of one.
            if response.is_success and match and 0 < int(match[1]) < self._size:
                self._address = self._next_address(response)
                self.confirmed = int(match[1]) + 1
        if not self.confirmed:
            response = self._connection.client.post(
                self._connection.base.join("blobs/uploads/"), headers={"Content-Length": "0"}
            )
            self._connection.check(response)
            self._address = self._next_address(response)
        self._tell(self.confirmed)

    def send_rest(self) -> None:
        """Stream what the registry has not."""
        if self.confirmed == self._size:
            return
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(self._size - self.confirmed),
        }
        if self.confirmed:
            headers["Content-Range"] = f"{self.confirmed}-{self._size - 1}"
        response = self._connection.client.patch(self._here(), content=self._rest(), headers=headers)
        self._check(response)
        self._address = self._next_address(response)
        self.confirmed = self._size

    def end(self, digest: str) -> None:
        """Have the registry compare and keep what it has received."""
        address = self._here().copy_add_param("digest", digest)
        seconds = _END_SECONDS + self._size / _SLOWEST_COPY
        response = self._connection.client.put(
            address, headers={"Content-Length": "0"}, timeout=seconds, extensions=allowing(seconds=seconds)
        )
        if response.status_code == httpx2.codes.BAD_REQUEST and not self._was_cut:
            raise BadBundleError(
                f"{self._file}: expected {digest}, found that the registry received something else",
                hint="build the bundle again: it is not what its manifest says",
            )
        self._check(response)

    def _check(self, response: httpx2.Response) -> None:
        """Let a good answer pass; another one ends this upload, and the next attempt begins a new one.

        The registry may have forgotten it, or late bytes of a connection that was cut may have spoiled it.
        """
        if response.status_code in (httpx2.codes.CREATED, httpx2.codes.ACCEPTED, httpx2.codes.NO_CONTENT):
            return
        self._address = None
        if response.status_code != httpx2.codes.NOT_FOUND:
            self._connection.check(response)
        raise UnavailableError(response)

    def _rest(self) -> "_Rest":
        return _Rest(self._file, self.confirmed, self._tell, self._connection.watch)

    def _here(self) -> httpx2.URL:
        assert self._address is not None  # noqa: S101 - for the type checker
        return self._address

    def _next_address(self, response: httpx2.Response) -> httpx2.URL:
        """Where the upload goes on: every answer says it anew."""
        if "Location" not in response.headers:
            raise UnavailableError(response)
        return response.url.join(response.headers["Location"])

    def _tell(self, sent: int) -> None:
        """Tell the progress that `sent` bytes of the file are on their way or there."""
        self._progress(sent - self._told)
        self._told = sent


class _Rest:
    """A file from `start` on, as the body of a request; it can be sent again after a registry's 401."""

    def __init__(self, file: Path, start: int, tell: Progress, watch: WireWatch) -> None:
        self._file = file
        self._start = start
        self._tell = tell
        self._watch = watch

    def __iter__(self) -> Iterator[bytes]:
        sent = self._start
        with self._file.open("rb") as file:
            file.seek(sent)
            size, begun = _SMALLEST_BUFFER_BYTES, time.monotonic()
            while data := file.read(size):
                yield data
                sent += len(data)
                self._tell(sent)
                self._watch.count(len(data))
                quick = time.monotonic() - begun < _QUICK_SECONDS
                size = min(2 * size, _LARGEST_BUFFER_BYTES) if quick else _SMALLEST_BUFFER_BYTES
                begun = time.monotonic()
