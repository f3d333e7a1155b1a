"""A small Hugging Face hub on 127.0.0.1: the endpoints that the real client calls, and ways to go wrong."""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """One request the server saw. `path` without the query; the headers that it had, or empty."""

    method: str
    path: str
    range: str
    authorization: str = ""


@dataclass
class HubServer:
    """A hub with one model, of one commit, which has `names`. Change the fields while it runs to make things
    go wrong.

    Safetensors files are in large-file storage: they redirect to /cdn/NAME, as the hub does.
    `cut_after[name]` counts bytes after which the connection drops, once each; `broken[name]` is the status
    that a file answers with; `hold_after[name]` counts bytes after which the answer stalls until `released`.
    A file in `endless` has no end; one in `dripping` comes at a byte a second. Weights lie on `store`,
    another name of this machine.
    """

    repo_id: str
    folder: Path
    commit: str = "0123456789abcdef0123456789abcdef01234567"
    names: tuple[str, ...] = ("main",)
    gated_for_token: str | None = None
    ignore_range: bool = False
    store: str = "localhost"
    endless: set[str] = field(default_factory=set)
    dripping: set[str] = field(default_factory=set)
    broken: dict[str, int] = field(default_factory=dict)
    cut_after: dict[str, list[int]] = field(default_factory=dict)
    hold_after: dict[str, int] = field(default_factory=dict)
    released: threading.Event = field(default_factory=threading.Event)
    requests: list[Request] = field(default_factory=list)
    bytes_sent: dict[str, int] = field(default_factory=dict)
    url: str = ""

    def weight_requests(self) -> list[Request]:
        return [request for request in self.requests if ".safetensors" in request.path]


@contextmanager
def serve_hub(repo_id: str, folder: Path) -> Iterator[HubServer]:
    """Serve the files of `folder` as the model `repo_id` while the block runs."""
    hub = HubServer(repo_id, folder)

    class Handler(_Handler):
        server_hub = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server_hub
        path = unquote(urlsplit(self.path).path)
        asked = (self.headers.get(name, "") for name in ("Range", "Authorization"))
        hub.requests.append(Request(self.command, path, *asked))
        if model := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/(.+))?", path):
            return self._model(model[1], model[2] or "main")
        if file := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(file[1], file[2], file[3])
        if path.startswith("/cdn/"):
            return self._content(path.removeprefix("/cdn/"))
        return self._refuse(404)

    def _known(self, repo_id: str, revision: str) -> bool:
        """Whether there is such a model and revision; answers if not."""
        if repo_id != self.server_hub.repo_id:
            # The hub does not tell strangers whether a model is missing or private.
            self._refuse(401, "RepoNotFound")
            return False
        if revision not in (*self.server_hub.names, self.server_hub.commit):
            self._refuse(404, "RevisionNotFound")
            return False
        return True

    def _model(self, repo_id: str, revision: str) -> None:
        if not self._known(repo_id, revision):
            return
        siblings = []
        for file in sorted(self.server_hub.folder.iterdir()):
            sibling: dict[str, object] = {"rfilename": file.name, "size": file.stat().st_size}
            if file.suffix == ".safetensors":
                sibling["lfs"] = {"sha256": _sha256(file), "size": file.stat().st_size, "pointerSize": 134}
            siblings.append(sibling)
        body = json.dumps({"id": repo_id, "sha": self.server_hub.commit, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _resolve(self, repo_id: str, revision: str, name: str) -> None:
        hub = self.server_hub
        if not self._known(repo_id, revision):
            return None
        token = hub.gated_for_token
        if token is not None and self.headers.get("Authorization") != f"Bearer {token}":
            return self._refuse(403 if "Authorization" in self.headers else 401, "GatedRepo")
        file = hub.folder / name
        if not file.is_file():
            return self._refuse(404, "EntryNotFound")
        if file.suffix != ".safetensors":
            return self._content(name)
        self.send_response(302)
        self.send_header("Location", f"{hub.url.replace('127.0.0.1', hub.store)}/cdn/{name}")
        self.send_header("X-Repo-Commit", hub.commit)
        self.send_header("X-Linked-Etag", f'"{_sha256(file)}"')
        self.send_header("X-Linked-Size", str(file.stat().st_size))
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def _content(self, name: str) -> None:
        hub = self.server_hub
        if name in hub.broken:
            return self._refuse(hub.broken[name])
        data = (hub.folder / name).read_bytes()
        if name in hub.endless | hub.dripping and self.command == "GET":
            return self._without_end(data, seconds=1.0 if name in hub.dripping else 0.0)
        start = 0
        if (asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) and not hub.ignore_range:
            start = int(asked[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("X-Repo-Commit", hub.commit)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return None
        stop = len(data)
        cuts = hub.cut_after.get(name)
        if cuts:
            stop = min(stop, start + cuts.pop(0))
        elif name in hub.hold_after:
            stop = min(stop, start + hub.hold_after.pop(name))
        self.wfile.write(data[start:stop])
        hub.bytes_sent[name] = hub.bytes_sent.get(name, 0) + stop - start
        if stop < len(data):
            if cuts is None:
                hub.released.wait(30)
            self.close_connection = True
        return None

    def _without_end(self, data: bytes, *, seconds: float) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("X-Repo-Commit", self.server_hub.commit)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.end_headers()
        with contextlib.suppress(OSError):
            while not self.server_hub.released.wait(seconds):
                self.wfile.write(bytes(1 if seconds else 1 << 16))

    def _refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
