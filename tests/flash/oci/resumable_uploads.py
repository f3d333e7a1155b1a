"""The upload side of a registry that keeps an upload whose connection was cut, as the specification has it.

Docker's own registry does not: after a cut inside a request it answers 404 when asked about the upload.
https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-a-blob-in-chunks
"""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class UploadServer:
    """`begun` counts the uploads; `blobs` are those that were ended, by their digests."""

    port: int = 0
    begun: int = 0
    uploads: dict[str, bytearray] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)


@contextlib.contextmanager
def serve_uploads() -> Iterator[UploadServer]:
    """Serve while the block runs."""
    state = UploadServer()

    class Handler(_Handler):
        server_state = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: UploadServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(200 if urlsplit(self.path).path.rpartition("/")[2] in self.server_state.blobs else 404)

    def do_POST(self) -> None:
        self.server_state.begun += 1
        self.server_state.uploads[f"{self.path}{self.server_state.begun}"] = bytearray()
        self._answer(202, Location=f"{self.path}{self.server_state.begun}")

    def do_GET(self) -> None:
        have = len(self.server_state.uploads[self.path])
        self._answer(204, Location=self.path, Range=f"0-{max(have - 1, 0)}")

    def do_PATCH(self) -> None:
        upload = self.server_state.uploads[self.path]
        start = int(self.headers.get("Content-Range", "0-").partition("-")[0])
        if start != len(upload):
            self._answer(416)
            return
        missing = int(self.headers["Content-Length"])
        with contextlib.suppress(OSError):
            while missing and (data := self.rfile.read1(min(missing, 1 << 16))):
                upload += data
                missing -= len(data)
        if missing:
            self.close_connection = True
            return
        self._answer(202, Location=self.path, Range=f"0-{len(upload) - 1}")

    def do_PUT(self) -> None:
        url = urlsplit(self.path)
        data = bytes(self.server_state.uploads[url.path])
        digest = parse_qs(url.query)["digest"][0]
        if digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
            self._answer(400)
            return
        self.server_state.blobs[digest] = data
        self._answer(201, Location="/")

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()
