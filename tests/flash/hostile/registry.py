"""A registry that has a bundle, and misbehaves at one place of the dialogue in one way.

Another server, on another address of this machine, stands for whoever it redirects to. Both note what they
were asked, and with which credentials. Spoken by hand over sockets: a library would not say such things.
"""

import contextlib
import gzip
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgephi.bundle.manifest import MANIFEST_NAME, read_manifest
from edgephi.flash.oci.manifests import MANIFEST_TYPE
from edgephi.flash.oci.modelpack import make_artifact

STEERING = "\x1b[2J\x1b]0;title\x07 \u202e denied"
ELSEWHERE = "127.0.0.2"
_LONGEST_SECONDS = 90
_CHALLENGE = 'WWW-Authenticate: Bearer realm="{}/token",service="s",scope="x"\r\n'

PULL_PLACES = ("manifest", "own", "big", "token", "elsewhere")
"""Where a registry can misbehave while a bundle is fetched."""

PUSH_PLACES = ("look", "begin", "send", "end", "name")
"""Where it can while one is sent."""


@dataclass(frozen=True)
class Asked:
    """A request: whom, what, and the credentials that came with it."""

    host: str
    method: str
    path: str
    authorization: str


@dataclass
class HostileRegistry:
    """`place` says where it misbehaves, `way` how; both "" while it behaves."""

    bundle: Path
    place: str = ""
    way: str = ""
    asked: list[Asked] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    port: int = 0
    other_port: int = 0
    times: int = 1 << 30
    """How often it misbehaves, before it behaves."""
    wants_a_password: bool = False

    def __post_init__(self) -> None:
        artifact = make_artifact(self.bundle, read_manifest(self.bundle))
        self.manifest = artifact.manifest
        self.blobs = {layer.digest: (self.bundle / layer.path).read_bytes() for layer in artifact.layers}
        self.blobs[f"sha256:{hashlib.sha256(artifact.config).hexdigest()}"] = artifact.config
        self.big = max(self.blobs, key=lambda digest: len(self.blobs[digest]))
        self.own = next(each.digest for each in artifact.layers if each.path == MANIFEST_NAME)

    @property
    def host(self) -> str:
        """As a reference names it."""
        return f"127.0.0.1:{self.port}"

    def secrets_elsewhere(self) -> list[Asked]:
        """The requests that brought credentials to the other server."""
        return [each for each in self.asked if each.host == ELSEWHERE and each.authorization]

    def answer(self, client: socket.socket, asked: Asked) -> bool:
        """Answer one request. Returns whether the connection goes on."""
        self.asked.append(asked)
        place = self._place(asked)
        may_misbehave = asked.authorization or not self.wants_a_password
        if place == self.place and self.times > 0 and may_misbehave:
            self.times -= 1
            WAYS[self.way](client, self, asked)
            return False
        if self.wants_a_password and asked.host != ELSEWHERE and not asked.authorization:
            return _reply(client, 401, b"", 'WWW-Authenticate: Basic realm="x"\r\n')
        if place == "manifest" and self.place == "token" and not asked.authorization:
            return _reply(client, 401, b"", _CHALLENGE.format(f"http://{self.host}"))
        if place == "token":
            return _reply(client, 200, b'{"token":"t","expires_in":300}')
        if place == "manifest":
            return _reply(client, 200, self.manifest, f"Content-Type: {MANIFEST_TYPE}\r\n")
        if place == "begin":
            return _reply(client, 202, b"", "Location: /v2/a/b/blobs/uploads/1\r\n")
        if place == "send":
            return _reply(client, 202, b"", "Location: /v2/a/b/blobs/uploads/1\r\n")
        if place in ("end", "name"):
            return _reply(client, 201, b"")
        if place == "look":
            return _reply(client, 404, b"")
        if place == "big" and self.place == "elsewhere":
            return _reply(client, 307, b"", f"Location: http://{ELSEWHERE}:{self.other_port}{asked.path}\r\n")
        data = self.blobs.get(asked.path.rpartition("/")[2])
        return _reply(client, 404, b"") if data is None else _reply(client, 200, data)

    def _place(self, asked: Asked) -> str:
        if asked.host == ELSEWHERE:
            return "elsewhere"
        if asked.path.startswith("/token"):
            return "token"
        name = asked.path.partition("?")[0].rpartition("/")[2]
        by_method = {"HEAD": "look", "POST": "begin", "PATCH": "send"}
        if asked.method in by_method:
            return by_method[asked.method]
        if asked.method == "PUT":
            return "name" if "/manifests/" in asked.path else "end"
        if "/manifests/" in asked.path:
            return "manifest"
        return {self.big: "big", self.own: "own"}.get(name, "other")


def _head(status: int, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} Something\r\n{headers}".encode()


def _reply(client: socket.socket, status: int, body: bytes, headers: str = "") -> bool:
    client.sendall(_head(status, f"{headers}Content-Length: {len(body)}\r\n\r\n") + body)
    return True


Way = Callable[[socket.socket, HostileRegistry, Asked], None]


def _for_long(client: socket.socket, data: bytes, *, seconds: float = 0.0) -> None:
    """Send the same again and again, as long as somebody listens."""
    end = time.monotonic() + _LONGEST_SECONDS
    while time.monotonic() < end:
        client.sendall(data)
        time.sleep(seconds)


def _content(registry: HostileRegistry, asked: Asked) -> tuple[bytes, str]:
    """What it should have answered, and the headers for that."""
    if "/manifests/" in asked.path:
        return registry.manifest, f"Content-Type: {MANIFEST_TYPE}\r\n"
    return registry.blobs.get(asked.path.rpartition("/")[2], b'{"token":"t"}'), ""


def _silent(client: socket.socket, _registry: HostileRegistry, _asked: Asked) -> None:
    client.settimeout(_LONGEST_SECONDS)
    with contextlib.suppress(OSError):
        while client.recv(1):
            pass


def _close(_client: socket.socket, _registry: HostileRegistry, _asked: Asked) -> None:
    """Say nothing."""


def _drip_head(client: socket.socket, _registry: HostileRegistry, _asked: Asked) -> None:
    client.sendall(_head(200))
    _for_long(client, b"x", seconds=1)


def _endless_head(client: socket.socket, _registry: HostileRegistry, _asked: Asked) -> None:
    client.sendall(_head(200))
    _for_long(client, b"X-More: more\r\n" * 1000)


def _informational(client: socket.socket, _registry: HostileRegistry, _asked: Asked) -> None:
    _for_long(client, b"HTTP/1.1 100 Continue\r\n\r\n", seconds=0.05)


def _drip_body(client: socket.socket, registry: HostileRegistry, asked: Asked) -> None:
    data, headers = _content(registry, asked)
    client.sendall(_head(200, f"{headers}Content-Length: {len(data)}\r\n\r\n"))
    for place in range(len(data)):
        client.sendall(data[place : place + 1])
        time.sleep(1)


def _drip_chunks(client: socket.socket, registry: HostileRegistry, asked: Asked) -> None:
    _, headers = _content(registry, asked)
    client.sendall(_head(200, f"{headers}Transfer-Encoding: chunked\r\n\r\n1;"))
    _for_long(client, b"x", seconds=1)


def _half(client: socket.socket, registry: HostileRegistry, asked: Asked) -> None:
    data, headers = _content(registry, asked)
    client.sendall(_head(200, f"{headers}Content-Length: {len(data)}\r\n\r\n") + data[: len(data) // 2])


def _half_silent(client: socket.socket, registry: HostileRegistry, asked: Asked) -> None:
    _half(client, registry, asked)
    _silent(client, registry, asked)


def _one_byte(client: socket.socket, registry: HostileRegistry, asked: Asked) -> None:
    start = 0
    data, headers = _content(registry, asked)
    client.sendall(_head(200, f"{headers}Content-Length: {len(data)}\r\n\r\n") + data[start : start + 1])


def _endless_body(client: socket.socket, registry: HostileRegistry, asked: Asked) -> None:
    _, headers = _content(registry, asked)
    client.sendall(_head(200, f"{headers}\r\n"))
    _for_long(client, bytes(1 << 16))


def _endless_error(client: socket.socket, _registry: HostileRegistry, _asked: Asked) -> None:
    client.sendall(_head(403, "\r\n"))
    _for_long(client, b" " * (1 << 16))


def _compressed(client: socket.socket, registry: HostileRegistry, asked: Asked) -> None:
    _, headers = _content(registry, asked)
    _reply(client, 200, gzip.compress(bytes(300 << 20), 1), f"{headers}Content-Encoding: gzip\r\n")


def _compressed_error(client: socket.socket, _registry: HostileRegistry, _asked: Asked) -> None:
    _reply(client, 403, gzip.compress(bytes(300 << 20), 1), "Content-Encoding: gzip\r\n")


def _status(status: int, body: bytes = b"", headers: str = "") -> Way:
    def way(client: socket.socket, _registry: HostileRegistry, _asked: Asked) -> None:
        _reply(client, status, body, headers)

    return way


def _raw(data: bytes) -> Way:
    def way(client: socket.socket, _registry: HostileRegistry, _asked: Asked) -> None:
        client.sendall(data)

    return way


def _asks_elsewhere(client: socket.socket, registry: HostileRegistry, _asked: Asked) -> None:
    _reply(client, 401, b"", _CHALLENGE.format(f"http://{ELSEWHERE}:{registry.other_port}"))


def _sent_elsewhere(client: socket.socket, registry: HostileRegistry, _asked: Asked) -> None:
    _reply(client, 307, b"", f"Location: http://{ELSEWHERE}:{registry.other_port}/x\r\n")


def _upload_elsewhere(client: socket.socket, registry: HostileRegistry, _asked: Asked) -> None:
    _reply(client, 202, b"", f"Location: http://{ELSEWHERE}:{registry.other_port}/upload\r\n")


def _in_a_circle(client: socket.socket, _registry: HostileRegistry, asked: Asked) -> None:
    _reply(client, 307, b"", f"Location: {asked.path}\r\n")


WAYS: dict[str, Way] = {
    "silent": _silent,
    "close": _close,
    "drip-head": _drip_head,
    "endless-head": _endless_head,
    "informational": _informational,
    "drip-body": _drip_body,
    "drip-chunks": _drip_chunks,
    "half": _half,
    "half-silent": _half_silent,
    "one-byte": _one_byte,
    "endless-body": _endless_body,
    "endless-error": _endless_error,
    "compressed": _compressed,
    "compressed-error": _compressed_error,
    "garbage": _raw(bytes(range(256)) * 40),
    "page": _status(200, b"<html>log in to the hotel</html>", "Content-Type: text/html\r\n"),
    "steering": _status(403, json.dumps({"errors": [{"message": STEERING}]}).encode()),
    "steering-raw": _status(403, json.dumps({"errors": [{"code": STEERING}]}, ensure_ascii=False).encode()),
    "deep-error": _status(403, b"[" * 60_000),
    "odd-error": _status(403, b'{"errors": [5]}'),
    "busy": _status(503),
    "busy-soon": _status(429, b"", "Retry-After: 2\r\n"),
    "busy-long": _status(429, b"", "Retry-After: 999999999999\r\n"),
    "busy-date": _status(503, b"", "Retry-After: Fri, 31 Dec 2999 23:59:59 GMT\r\n"),
    "busy-odd": _status(503, b"", "Retry-After: -1e999 soon\r\n"),
    "teapot": _status(418),
    "empty": _status(200),
    "not-here": _status(404),
    "asks-basic": _status(401, b"", 'WWW-Authenticate: Basic realm="x"\r\n'),
    "asks-elsewhere": _asks_elsewhere,
    "sent-elsewhere": _sent_elsewhere,
    "upload-elsewhere": _upload_elsewhere,
    "in-a-circle": _in_a_circle,
    "to-a-file": _status(307, b"", "Location: file:///etc/passwd\r\n"),
    "to-ftp": _status(307, b"", "Location: ftp://127.0.0.1/x\r\n"),
    "to-nowhere": _status(307, b"", "Location: http://[::g]:x/\r\n"),
    "to-plain": _status(307, b"", "Location: http://192.0.2.1/x\r\n"),
    "steering-location": _raw(
        _head(307, "Location: http://127.0.0.1/\x1b[2J\rX: 1\r\nContent-Length: 0\r\n\r\n")
    ),
}
"""How it misbehaves, by name."""


@contextlib.contextmanager
def hostile_registry(bundle: Path) -> Iterator[HostileRegistry]:
    """Serve `bundle` while the block runs."""
    registry = HostileRegistry(bundle)
    with (
        socket.create_server(("127.0.0.1", 0), backlog=64) as own,
        socket.create_server((ELSEWHERE, 0), backlog=64) as other,
    ):
        registry.port, registry.other_port = own.getsockname()[1], other.getsockname()[1]
        for listener in (own, other):
            threading.Thread(target=_accept, args=(listener, registry), daemon=True).start()
        yield registry


def _accept(listener: socket.socket, registry: HostileRegistry) -> None:
    with contextlib.suppress(OSError):  # it may be closed before this begins
        host = listener.getsockname()[0]
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(client, host, registry), daemon=True).start()


def _serve(client: socket.socket, host: str, registry: HostileRegistry) -> None:
    with client, contextlib.suppress(OSError):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(_LONGEST_SECONDS)
        while True:
            head = b""
            while b"\r\n\r\n" not in head:
                more = client.recv(65536)
                if not more:
                    return
                head += more
            head, _, body = head.partition(b"\r\n\r\n")
            text = head.decode("latin-1")
            method, path, _ = text.split(" ", 2)
            found = re.search(r"(?im)^authorization: (.*?)\r?$", text)
            asked = Asked(host, method, path, found[1] if found else "")
            length = re.search(r"(?im)^content-length: (\d+)", text)
            left = int(length[1]) - len(body) if length else 0
            reads_body = registry.place != "send" or registry.way not in ("silent", "drip-head")
            while reads_body and left > 0:
                more = client.recv(min(left, 65536))
                if not more:
                    return
                left -= len(more)
            if not registry.answer(client, asked):
                return
