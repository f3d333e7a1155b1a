"""A connection to a box over ssh, the way the user's own `ssh` would make it.

The configuration in ~/.ssh/config, the keys, the agent and the known hosts of the user hold. A box whose key
is not known is never talked to. What can go wrong is said here in one line.
"""

import asyncio
import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncssh

from edgephi.commands import shell_command
from edgephi.errors import EdgephiError, NotSupportedError, TransportError, UsageError
from edgephi.flash.destination import Box

# On a processor with AES instructions twice as fast as chacha20, which would come first by default.
_FAST_CIPHERS = "aes128-gcm@openssh.com,aes256-gcm@openssh.com"
_CONNECT_SECONDS = 20.0
# A dead connection is found before its agent's silence is: it is worth another try, a box that hangs is not.
_KEEP_ALIVE_SECONDS = 5.0
_KEEP_ALIVES_UNANSWERED = 2
_USUAL_PORT = 22
_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_KNOWN_HOSTS_OF_ALL = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")


# Both tell on standard error what we say in our own words.
for _name in ("asyncio", "asyncssh"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


class ConnectionCutError(TransportError):
    """The connection ended, or none came about, for a reason that may pass."""


async def connect(box: Box) -> asyncssh.SSHClientConnection:
    """Connect to a box, and check that it is the one that the user knows.

    Raises TransportError, or ConnectionCutError where trying again may help, and UsageError for a
    configuration that cannot be read.
    """
    presented = _PresentedKey()
    with _translated(box, presented):
        options = await asyncssh.SSHClientConnectionOptions.construct(
            host=box.host,
            **({} if box.port is None else {"port": box.port}),
            **({} if box.user is None else {"username": box.user}),
        )
        config = options.config
        defaults: dict[str, Any] = {}
        if config.get("Ciphers") is None:
            defaults["encryption_algs"] = f"^{_FAST_CIPHERS}"
        if config.get("ServerAliveInterval") is None:
            defaults["keepalive_interval"] = _KEEP_ALIVE_SECONDS
            defaults["keepalive_count_max"] = _KEEP_ALIVES_UNANSWERED
        if config.get("ConnectTimeout") is None:
            defaults["connect_timeout"] = _CONNECT_SECONDS
        known_hosts = _known_hosts(config)
        seconds = float(config.get("ConnectTimeout") or _CONNECT_SECONDS)
        async with asyncio.timeout(seconds):  # from the first byte to the last of a handshake
            return await asyncssh.connect(
                box.host,
                options=options,
                known_hosts=known_hosts,
                client_factory=lambda: _Client(presented, known_hosts),
                request_pty=False,
                agent_forwarding=False,
                x11_forwarding=False,
                **({} if box.port is None else {"port": box.port}),
                **defaults,
            )


class _PresentedKey:
    """The key that a box showed and that is not among its known ones; None until then.

    `is_another`: the box has a known key, and this is not it.
    """

    def __init__(self) -> None:
        self.key: asyncssh.SSHKey | None = None
        self.is_another = False


class _Client(asyncssh.SSHClient):
    """Remembers which key was refused."""

    def __init__(self, presented: _PresentedKey, known_hosts: asyncssh.SSHKnownHosts) -> None:
        self._presented = presented
        self._known_hosts = known_hosts

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Never trust a key that no file of known hosts has."""
        known_keys, *_ = asyncssh.match_known_hosts(
            self._known_hosts, host, addr, None if port == _USUAL_PORT else port
        )
        self._presented.key = key
        self._presented.is_another = bool(known_keys)
        return False


def _known_hosts(config: Any) -> asyncssh.SSHKnownHosts:
    """The known hosts that the user's configuration names, else the usual files. There may be none.

    asyncssh itself would check nothing for `UserKnownHostsFile none`.
    """
    files: list[str] = []
    for option, usual in (
        ("UserKnownHostsFile", _KNOWN_HOSTS),
        ("GlobalKnownHostsFile", _KNOWN_HOSTS_OF_ALL),
    ):
        named: Sequence[str] | None = config.get(option)
        files += usual if named is None else named
    there = [str(path) for path in (Path(file).expanduser() for file in files) if path.is_file()]
    known_hosts = _KnownHosts()
    for path in there:
        known_hosts.load(Path(path).read_text(errors="replace"))
    return known_hosts


class _KnownHosts(asyncssh.SSHKnownHosts):
    """Known hosts of which a revoked key is revoked for the host, whatever the port.

    asyncssh looks at lines without a port only where none has it: `@revoked *` would be passed over.
    """

    def match(self, host: str, addr: str, port: int | None) -> Any:
        """Known keys, keys of authorities and revoked keys of a host, and the same of certificates."""
        known, authorities, found, *certificates = super().match(host, addr, port)
        revoked = list(found)
        names = {host, addr, *(f"[{name}]:{port}" for name in (host, addr))} - {""}
        for name in names:
            revoked += super().match(name, "", None)[2]
        return (known, authorities, revoked, *certificates)


@contextlib.contextmanager
def _translated(box: Box, presented: _PresentedKey) -> Iterator[None]:
    """Say what keeps us from a box."""
    address = f"[{box.host}]:{box.port}" if box.port else box.host
    try:
        yield
    except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed) as cause:
        raise _host_key_error(box, address, presented, cause) from cause
    except asyncssh.PermissionDenied as cause:
        raise TransportError(
            f"{box}: expected one of your keys to open it, found that it takes none",
            hint=f"`{_ssh_command(box)}` must work without a password: ssh-copy-id, or ssh-add for a key "
            "with a passphrase",
        ) from cause
    except (asyncssh.ConfigParseError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as cause:
        raise UsageError(
            f"~/.ssh: expected a configuration that can be read, found {cause}", hint="correct that file"
        ) from cause
    except (asyncssh.DisconnectError, asyncssh.ChannelOpenError) as cause:
        raise ConnectionCutError(
            f"{box}: expected a connection, found {cause.reason or type(cause).__name__}",
            hint=f"see whether `{_ssh_command(box)}` works",
        ) from cause
    except TimeoutError as cause:
        raise ConnectionCutError(
            f"{box}: expected an answer, found none within {_CONNECT_SECONDS:.0f} s",
            hint="check that the box is on and reachable",
        ) from cause
    except socket.gaierror as cause:
        raise ConnectionCutError(
            f"{box}: expected the name of a host, found that nobody knows it",
            hint="check the name, and the network",
        ) from cause
    except OSError as cause:
        raise ConnectionCutError(
            f"{box}: expected a connection, found {_reason(cause)}",
            hint="check that the box is on and that sshd runs on that port",
        ) from cause


def _host_key_error(
    box: Box, address: str, presented: _PresentedKey, cause: Exception
) -> TransportError | NotSupportedError:
    """A box that is unknown, another one than it was, or with which there is no common language."""
    if presented.key is None and "revoked" in str(cause):
        return TransportError(
            f"{box}: expected a host key that is trusted, found one that known_hosts marks as @revoked",
            hint="somebody may stand in for it with a key that was stolen: ask who has revoked it",
        )
    if presented.key is None:
        return TransportError(
            f"{box}: expected a host key that is known, found that {' '.join(str(cause).split())}",
            hint=f"see whether `{_ssh_command(box)}` works",
        )
    found = f"{presented.key.get_algorithm()} {presented.key.get_fingerprint()}"
    key = shell_command("ssh-keygen", "-lf", "/etc/ssh/ssh_host_ed25519_key.pub")
    look = f"compare with `{key}` on the box"
    if presented.is_another:
        return TransportError(
            f"{box}: expected the host key in known_hosts, found another: {found}",
            hint=f"somebody may stand in for it; {look}; if it was set up anew: "
            f"`{shell_command('ssh-keygen', '-R', address)}`",
        )
    return TransportError(
        f"{box}: expected a host key in known_hosts, found none, and {found} on the box",
        hint=f"{look}; then accept it with `{_ssh_command(box)}`",
    )


def _reason(cause: OSError) -> str:
    """Why a connection failed, in the system's words: asyncio puts its own around them."""
    numbers = [cause.errno] if cause.errno else list(map(int, re.findall(r"\[Errno (\d+)\]", str(cause))))
    return os.strerror(numbers[0]).lower() if numbers else str(cause)


def _ssh_command(box: Box) -> str:
    """The command that opens a shell on the box."""
    port = ("-p", str(box.port)) if box.port else ()
    return shell_command("ssh", *port, f"{box.user}@{box.host}" if box.user else box.host)


def is_worth_another_try(error: EdgephiError) -> bool:
    """Whether the same thing may work in a moment."""
    from edgephi.errors import StoreBusyError

    return isinstance(error, ConnectionCutError | StoreBusyError)


async def close(connection: asyncssh.SSHClientConnection) -> None:
    """End a connection; one that hangs is cut."""
    connection.close()
    with contextlib.suppress(TimeoutError, OSError, asyncssh.Error):
        await asyncio.wait_for(connection.wait_closed(), 2)
    connection.abort()
