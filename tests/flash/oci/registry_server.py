"""A real registry on 127.0.0.1: Debian's docker-registry, with a storage folder of its own."""

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

USER, PASSWORD = "edge", "box-42"
# What `htpasswd -nbB edge box-42` prints, with some salt.
HTPASSWD = "edge:$2b$05$abcdefghijklmnopqrstuuBSU.ic1VrJMHyewJv7P6xG/10N7PPve\n"


@dataclass
class RegistryServer:
    """A registry that can be killed and started again, with what it has stored."""

    folder: Path
    port: int
    address: str = "127.0.0.1"
    auth: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """Host and port, as references name the registry."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def log(self) -> str:
        """What the registry has said; each request is a line."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Serve, and wait until it does."""
        config = {
            "version": "0.1",
            "log": {"level": "info", "formatter": "text", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "storage")}},
            # Unfinished uploads outlive a restart.
            "http": {"addr": self.host, "secret": "the same after a restart"},
            **({"auth": self.auth} if self.auth else {}),
        }
        (self.folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["docker-registry", "serve", str(self.folder / "config.yml")], stdout=log, stderr=log
            )
        for _ in range(200):
            assert self.process.poll() is None, self.log
            with contextlib.suppress(OSError):
                socket.create_connection((self.address, self.port), timeout=1).close()
                return
            time.sleep(0.05)
        raise AssertionError(self.log)

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def blob_file(self, digest: str) -> Path:
        """The file in which the registry keeps a blob."""
        sha256 = digest.removeprefix("sha256:")
        return self.folder / f"storage/docker/registry/v2/blobs/sha256/{sha256[:2]}/{sha256}/data"

    def requests(self, method: str, part: str = "") -> list[str]:
        """The addresses of the requests with that method that have `part` in them, in order."""
        found = []
        for line in self.log.splitlines():
            words = line.split('"')
            if len(words) > 1 and words[1].startswith(f"{method} ") and part in words[1]:
                found.append(words[1].split()[1])
        return found


@contextlib.contextmanager
def serve_registry(folder: Path, *, address: str = "127.0.0.1", **auth: Any) -> Iterator[RegistryServer]:
    """Serve a registry while the block runs; `auth` is that section of its config."""
    if shutil.which("docker-registry") is None:
        pytest.skip("needs docker-registry (apt install docker-registry)")
    folder.mkdir(parents=True, exist_ok=True)
    registry = RegistryServer(folder, free_port(), address, auth)
    registry.start()
    try:
        yield registry
    finally:
        registry.kill()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def get(registry: RegistryServer, path: str, accept: str = "*/*") -> bytes:
    """What an ordinary client gets, to look at from outside."""
    request = urllib.request.Request(f"http://{registry.host}/v2/{path}", headers={"Accept": accept})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        return bytes(answer.read())
