"""What the documentation's commands meet, made on this machine: two boxes, and a registry with a certificate.

All of it lies in a mount namespace of its own, in which `box-1` and `registry.example` are names of this
machine, `admin` is a user, and `/srv` and `/mnt` are empty.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.flash.ssh.sshd import Sshd, free_port

_BOXES = {"box-1": ("127.0.0.11", "127.0.0.10"), "box-2": ("127.0.0.12",)}  # `box` is the first one, too
_NAMES = {"box-1": "127.0.0.11", "box": "127.0.0.10", "box-2": "127.0.0.12", "registry.example": "127.0.0.13"}
_START_SECONDS = 20
# A folder that is the other box's alone.
_OTHER_DISK = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /srv && exec "$@"', "sh")


def enter_namespace(module: str, arguments: Sequence[str]) -> None:
    """Go on as `python -m MODULE ARGUMENTS` in a mount namespace of its own, unless we are in one."""
    if "EDGEPHI_DOCS_NAMESPACE" in os.environ:
        return
    environment = {**os.environ, "EDGEPHI_DOCS_NAMESPACE": "1"}
    words = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", module, *arguments]
    os.execvpe("unshare", words, environment)


def furnish(folder: Path, box: Path) -> None:
    """Make the names, the user and the empty folders; `folder` keeps the files behind them.

    `box` is the folder of the first box: OpenSSH finds a user's home by the name, not in the environment.
    """
    for place in ("/srv", "/mnt"):
        _run("mount", "-t", "tmpfs", "none", place)
    hosts = "".join(f"{address} {name}\n" for name, address in _NAMES.items())
    homes = {"root": box / "home", "admin": box / "far-home"}
    users = "".join(f"{name}:x:0:0::{home}:/bin/bash\n" for name, home in homes.items())
    for path, lines in {"/etc/hosts": hosts, "/etc/passwd": users}.items():
        copy = folder / Path(path).name
        copy.write_text(lines + Path(path).read_text())
        _run("mount", "--bind", copy, path)


@contextlib.contextmanager
def boxes(folder: Path, commands: Path) -> Iterator[list[Sshd]]:
    """The two boxes, which know the reader's key; `commands` are found first there."""
    folder.mkdir()
    port = free_port()  # one that is not this machine's own
    first, second = servers = [
        Sshd(folder / name, commands=commands, addresses=addresses, port=port)
        for name, addresses in _BOXES.items()
    ]
    shutil.copy(folder / "box-1" / "authorized_keys", folder / "box-2" / "authorized_keys")
    (first.home / ".ssh" / "config").write_text(f"Host box*\n    User admin\n    Port {port}\n")
    (first.home / ".ssh" / "known_hosts").write_text(
        f"[box-1]:{port},[box]:{port} {first.public_key}\n[box-2]:{port} {second.public_key}\n"
    )
    try:
        first.start()
        second.start(_OTHER_DISK)
        yield servers
    finally:
        for server in servers:
            with contextlib.suppress(AssertionError):
                server.kill()


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[Path]:
    """`registry.example`, over https; the certificate of its authority."""
    folder.mkdir()
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=registry.example", "-addext", "subjectAltName=DNS:registry.example"]
    words = [
        "-x509",
        "-newkey",
        "ed25519",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(["openssl", "req", *words, *subject], check=True, capture_output=True)
    config = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {
            "addr": f"{_NAMES['registry.example']}:443",
            "tls": {"certificate": str(certificate), "key": str(key)},
        },
    }
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log
        )
    try:
        _await(_NAMES["registry.example"], 443, server)
        yield certificate
    finally:
        server.kill()
        server.wait()


def _await(address: str, port: int, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"nobody answers at {address}:{port}")


def _run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True)
