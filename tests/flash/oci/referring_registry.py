"""A registry that lists what refers to a manifest, as the distribution specification 1.1 has it.

Docker's own registry does not, and none that does can be installed where the tests run. So this stands before
a real one and adds that part alone: the header OCI-Subject, and the list under /referrers/.
https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-referrers
"""

import contextlib
import hashlib
import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.flash.oci.registry_server import RegistryServer


@dataclass
class ReferringRegistry:
    """`referrers` are descriptors by the digest of their subject."""

    behind: RegistryServer
    port: int = 0
    referrers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """Host and port, as references name the registry."""
        return f"127.0.0.1:{self.port}"


@contextlib.contextmanager
def serve_referrers(behind: RegistryServer) -> Iterator[ReferringRegistry]:
    """Serve before a registry while the block runs."""
    state = ReferringRegistry(behind)

    class Handler(_Handler):
        state_of_server = state

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
    state_of_server: ReferringRegistry

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def _forward(self) -> None:
        state = self.state_of_server
        _, is_list, subject = self.path.partition("/referrers/")
        if is_list:
            index = {"schemaVersion": 2, "manifests": state.referrers.get(subject, [])}
            self._answer(200, json.dumps(index).encode(), {})
            return
        body = self._body()
        connection = http.client.HTTPConnection("127.0.0.1", state.behind.port, timeout=30)
        kept = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
        connection.request(self.command, self.path, body, {**kept, "Content-Length": str(len(body))})
        answer = connection.getresponse()
        data = answer.read()
        headers = {
            name: value
            for name, value in answer.getheaders()
            if name.lower() not in ("content-length", "transfer-encoding", "connection")
        }
        if self.command == "PUT" and "/manifests/" in self.path and answer.status == 201:
            headers.update(self._note(body))
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        connection.close()
        self._answer(answer.status, data, headers, length)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _forward  # noqa: N815 - the library's names

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _note(self, manifest: bytes) -> dict[str, str]:
        """Remember a manifest that refers to another one, and say so."""
        document = json.loads(manifest)
        if "subject" not in document:
            return {}
        subject = document["subject"]["digest"]
        digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        descriptor = {
            "mediaType": document["mediaType"],
            "digest": digest,
            "size": len(manifest),
            "artifactType": document["artifactType"],
        }
        known = self.state_of_server.referrers.setdefault(subject, [])
        if descriptor not in known:
            known.append(descriptor)
        return {"OCI-Subject": subject}

    def _answer(self, status: int, data: bytes, headers: dict[str, str], length: str | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        self.wfile.write(data)
