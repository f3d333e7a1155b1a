"""A real sshd on loopback, with keys of its own, for one user with a home of its own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
_PRIVILEGE_SEPARATION = Path("/run/sshd")
_START_SECONDS = 10
# For `scp`: where Debian has it, and where Fedora does.
_SFTP_SERVERS = (Path("/usr/lib/openssh/sftp-server"), Path("/usr/libexec/openssh/sftp-server"))
_SFTP_SERVER = next(filter(Path.exists, _SFTP_SERVERS), _SFTP_SERVERS[0])


def make_key(path: Path) -> None:
    """A key pair without a passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


class Sshd:
    """The server. `home` is that of the user who connects, `far_home` that of the user on the box.

    `path` is the one folder with commands on the box, the usual ones without it; `commands` comes before
    those. Nothing else of the environment reaches them. It listens on all of `addresses`, at one port.
    """

    def __init__(
        self,
        folder: Path,
        *,
        path: Path | None = None,
        commands: Path | None = None,
        greeting: str = "",
        addresses: Sequence[str] = ("127.0.0.1",),
        port: int | None = None,
    ) -> None:
        self.home = folder / "home"
        self.far_home = folder / "far-home"
        self.far_temporary = folder / "far-tmp"
        for each in (self.home / ".ssh", self.far_home, self.far_temporary):
            each.mkdir(parents=True, mode=0o700)
        self.commands = Path(path or commands or Path(sys.executable).parent)
        self._folder = folder
        self._host_key = folder / "host_key"
        make_key(self._host_key)
        make_key(self.home / ".ssh" / "id_ed25519")
        shutil.copy(self.home / ".ssh" / "id_ed25519.pub", folder / "authorized_keys")
        self.port = port or free_port()
        self._address = addresses[0]
        self.write_known_hosts()
        search = str(path or f"{self.commands}:/usr/bin:/bin")
        words = f"HOME={self.far_home} TMPDIR={self.far_temporary} PATH={search}"
        run = f'exec /usr/bin/env -i {words} /bin/sh -c "$SSH_ORIGINAL_COMMAND"'
        listen = "".join(f"ListenAddress {each}\n" for each in addresses)
        (folder / "sshd_config").write_text(
            f"Port {self.port}\n{listen}HostKey {self._host_key}\nPidFile none\n"
            f"AuthorizedKeysFile {folder / 'authorized_keys'}\nStrictModes no\nUsePAM no\n"
            f"PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f"Subsystem sftp {_SFTP_SERVER}\nForceCommand {greeting}{run}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """That of the user who connects."""
        return {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "LC_ALL": "C.UTF-8",
        }

    def destination(self, root: Path | str) -> str:
        """What `edgephi flash` takes."""
        return f"ssh://127.0.0.1:{self.port}{root}"

    def write_known_hosts(self, key: Path | None = None) -> None:
        """Have the user know the box by this key, else by its own."""
        kind, data, *_ = (key or self._host_key).with_suffix(".pub").read_text().split()
        line = f"[127.0.0.1]:{self.port} {kind} {data}\n"
        (self.home / ".ssh" / "known_hosts").write_text(line)

    @property
    def public_key(self) -> str:
        """The box's own, as `known_hosts` has it behind the names."""
        return " ".join(self._host_key.with_suffix(".pub").read_text().split()[:2])

    def start(self, within: Sequence[str] = ()) -> None:
        """Start it, and return when it answers. `within` are words before its command."""
        assert SSHD is not None
        if os.geteuid() == 0:
            _PRIVILEGE_SEPARATION.mkdir(exist_ok=True)
        log = (self._folder / "log").open("ab")
        self._process = subprocess.Popen(
            [*within, SSHD, "-D", "-e", "-f", str(self._folder / "sshd_config")],
            stderr=log,
            start_new_session=True,
        )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection((self._address, self.port), 1):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self._folder / "log").read_text())
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill it and all its connections at once; what they have started goes on."""
        assert self._process is not None
        for pid in [self._process.pid, *self._sessions()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def agents(self) -> list[int]:
        """The processes of the agents that its connections have started."""
        words = {pid: _words(pid) for pid in _processes()}
        far = f"HOME={self.far_home}"
        return [
            pid
            for pid, command in words.items()
            if any("bytes.fromhex" in word for word in command[:6]) and far in _environment(pid)
        ]

    def _sessions(self) -> list[int]:
        """The server's own processes that serve connections."""
        assert self._process is not None
        found, waiting = [], [self._process.pid]
        while waiting:
            children = _children(waiting.pop())
            servers = [pid for pid in children if "sshd" in "".join(_words(pid)[:1])]
            found += servers
            waiting += servers
        return found


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _processes() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _words(pid: int) -> Sequence[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return ()


def _environment(pid: int) -> Sequence[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return ()
