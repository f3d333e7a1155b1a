"""A systemd unit for `edgephi serve`: what the service may touch, how it starts, stops and is watched.

Sources: systemd.unit(5), systemd.service(5), systemd.exec(5), systemd.resource-control(5) and
systemd.syntax(7). Nothing here needs systemd; every setting is known to version 249 (Ubuntu 22.04).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from edgephi.bundle.manifest import Manifest
from edgephi.commands import PROGRAM_MODULE
from edgephi.engines.facts.registry import facts_of
from edgephi.errors import BadInputError, UsageError
from edgephi.guards.no_telemetry import VARIABLES

HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108
"""Folders that the service sees empty, but for what is bound into them."""

_MEBIBYTE = 1 << 20
_SERVER_BYTES = 256 * _MEBIBYTE  # the HTTP server's own process, and buffers of the kernel
# What requests with images take on their way (`--max-images`), and a large photograph while it is decoded.
_IMAGE_BYTES = 768 * _MEBIBYTE
_DEVICE_HOST_BYTES = 2048 * _MEBIBYTE  # what a GPU's driver and runtime keep in the machine's memory
LAST_PORT_OF_ROOT = 1023
STOP_MARGIN_SECONDS = 15
# What systemd does not take in the name of a program; a shell does.
_ODD_PROGRAM = re.compile(r"[\"'\\$]")
_PLAIN_WORD = re.compile(r"[\w@+,./:=-]+", re.ASCII)


@dataclass(frozen=True)
class PythonHome:
    """The Python environment that the service runs in: absolute paths.

    `folders` is all that it reads; `user_base` is set when packages lie in a user's own folder (PEP 370),
    which the service's user would not look into. `of_store`: the executable is the command of a store, which
    starts the Python of the bundle that is active there. `packages` are the folders in which that one finds
    its packages, where it is not the Python that runs this.
    """

    executable: Path
    folders: tuple[Path, ...]
    user_base: Path | None = None
    of_store: bool = False
    packages: tuple[Path, ...] | None = None


@dataclass(frozen=True)
class UnitOptions:
    """What a unit says beside the bundle. Paths are absolute; `grace` in seconds.

    `loopback`: only this machine can reach `host`, which is an IPv6 address when `ipv6` is set. `groups` own
    the GPU's device files. `adapter` is the name of one of the bundle's, or the folder of an artifact.
    """

    bundle: Path
    python: PythonHome
    host: str
    port: int
    loopback: bool
    ipv6: bool = False
    grace: int = 30
    api_key_file: Path | None = None
    system: str | None = None
    system_file: Path | None = None
    context: int | None = None
    provider: str | None = None
    adapter: str | Path | None = None
    ollama: bool = False
    name: str = "edgephi"
    groups: tuple[str, ...] = ()


def service_unit(manifest: Manifest, options: UnitOptions) -> str:
    """The text of the unit.

    Raises UsageError for a path that no unit can name, NotSupportedError for an engine or provider that this
    edgephi does not know.
    """
    # A value holds no line break: `quoted` and `plain` see to that.
    sections = {
        "Unit": [
            ("Description", f"edgephi serve: {plain(manifest.name)}"),
            ("Documentation", "man:systemd.exec(5)"),
            *([] if options.loopback else [("Wants", "network-online.target")]),
            ("After", "network.target" if options.loopback else "network-online.target"),
            # On a disk that is mounted later, there would be no bundle: with 4, it would not start again.
            ("RequiresMountsFor", " ".join(quoted(str(path)) for path in _needed(options))),
            ("StartLimitIntervalSec", "0"),  # a box has nobody who would start it again: never give up
        ],
        "Service": [
            *_life(options),
            *_files(options),
            *limits(manifest, options),
            *_walls(manifest, options),
        ],
        "Install": [("WantedBy", "multi-user.target")],
    }
    return written(sections)


def written(sections: Mapping[str, Iterable[tuple[str, str]]]) -> str:
    """The text of a unit's sections and their settings, whose values are quoted already."""
    return "\n".join(
        f"[{title}]\n" + "".join(f"{key}={value}\n" for key, value in settings)
        for title, settings in sections.items()
    )


def memory_limit(manifest: Manifest, *, context: int | None, provider: str) -> int:
    """Bytes that the service may take: what the model needs at its context, and room for the server."""
    needed = manifest.memory_at(context or manifest.limits.context)
    opens_device = facts_of(manifest.target.engine).provider(provider).opens_device
    room = _SERVER_BYTES + (_DEVICE_HOST_BYTES if opens_device else 0)
    room += 0 if manifest.model.images is None else _IMAGE_BYTES
    return ceil((needed + room) / _MEBIBYTE) * _MEBIBYTE


def bound_paths(needed: Iterable[Path]) -> list[Path]:
    """The paths among `needed` that the service would not see unless they are bound; none inside another.

    A link counts under both of its names: what it leads to, and where programs look for it.
    """
    hidden = {
        name
        for path in needed
        for name in (path, path.resolve())
        if any(name.is_relative_to(folder) for folder in HIDDEN)
    }
    return sorted(path for path in hidden if not any(parent in hidden for parent in path.parents))


def quoted(word: str) -> str:
    """One word of a setting, as systemd.syntax(7) and the specifiers of systemd.unit(5) want it."""
    if _PLAIN_WORD.fullmatch(word):
        return word
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{_without_control(text)}"'


def quoted_argument(word: str) -> str:
    """One word of a command line: as `quoted`, and no variable is filled in; line breaks can be written."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    text = re.sub(r"[\x01-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", text)
    return word if _PLAIN_WORD.fullmatch(word) else f'"{_without_control(text)}"'


def plain(text: str) -> str:
    """The rest of a line, where systemd knows no quotes."""
    if text != text.strip() or text.endswith("\\"):
        raise UsageError(
            f"expected a name that a unit can hold, found {text!r}, with a blank or backslash at its end",
            hint="rename it, or make a link to it",
        )
    return _without_control(text).replace("%", "%%")


def _without_control(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        pass
    else:
        if not re.search(r"[\x00-\x1f\x7f]", text):
            return text
    raise UsageError(
        f"expected a text that a unit can hold, found {text!r}, with bytes that it cannot",
        hint="rename it, or make a link to it",
    )


def _life(options: UnitOptions) -> Iterator[tuple[str, str]]:
    """How the service starts, says that it is ready, is watched and stops."""
    yield "Type", "notify"
    yield "ExecStart", _exec_start(options)
    # edgephi sets them itself; but a store may go back to one that is too old to.
    yield "Environment", " ".join(f"{name}={value}" for name, value in VARIABLES.items())
    yield "TimeoutStartSec", "15min"  # a large model from a memory card
    yield "WatchdogSec", "60"
    yield from restarts()
    # The end is told to the server alone, which lets the engine's process finish its answers.
    yield "KillMode", "mixed"
    yield "TimeoutStopSec", str(options.grace + STOP_MARGIN_SECONDS)
    # An engine that the kernel has killed is started again by the server.
    yield "OOMPolicy", "continue"


def restarts() -> Iterator[tuple[str, str]]:
    """When it starts again."""
    # Also after an end in order: whoever told it to, where memory runs out perhaps, was not its manager.
    yield "Restart", "always"
    yield "RestartSec", "5"
    # The command line or the bundle is wrong, and still so next time. What ends with 3 may find its memory,
    # its port or its device then.
    yield "RestartPreventExitStatus", f"{UsageError.exit_code} {BadInputError.exit_code}"


def _exec_start(options: UnitOptions) -> str:
    module = () if options.python.of_store else ("-P", "-m", PROGRAM_MODULE)
    words = [str(options.python.executable), *module]
    words += serve_words(options, options.bundle, options.adapter)
    if _ODD_PROGRAM.search(words[0]):
        words = ["/bin/sh", "-c", 'exec "$0" "$@"', *words]
    line = [quoted_argument(word) for word in words]
    # The only variable that systemd shall fill in.
    if options.api_key_file is not None:
        line += ["--api-key-file", "${CREDENTIALS_DIRECTORY}/api-key"]
    if options.system_file is not None:
        line += ["--system", "@${CREDENTIALS_DIRECTORY}/system"]
    return " ".join(line)


def serve_words(options: UnitOptions, bundle: Path, adapter: str | Path | None) -> list[str]:
    """The command, with the paths that the service has for the bundle and the adapter; no secret is in it."""
    words = ["serve", str(bundle), "--host", options.host, "--port", str(options.port)]
    words += ["--grace", str(options.grace)]
    if options.context is not None:
        words += ["--context", str(options.context)]
    if options.provider is not None:
        words += ["--provider", options.provider]
    if adapter is not None:
        words += ["--adapter", str(adapter)]
    if options.ollama:
        words += ["--ollama"]
    if options.system is not None:
        words += ["--system", options.system]
    return words


def _files(options: UnitOptions) -> Iterator[tuple[str, str]]:
    """What it sees of the file system."""
    if options.api_key_file is not None:
        yield "LoadCredential", f"api-key:{plain(str(options.api_key_file))}"
    if options.system_file is not None:
        yield "LoadCredential", f"system:{plain(str(options.system_file))}"
    bound = bound_paths([*_needed(options), *options.python.folders])
    yield "ProtectSystem", "strict"
    yield "ProtectHome", "tmpfs" if bound else "yes"
    yield "PrivateTmp", "yes"
    yield "PrivateMounts", "yes"
    for path in bound:
        yield "BindReadOnlyPaths", quoted(str(path)).replace(":", "\\:")
    if options.python.user_base is not None:
        yield "Environment", quoted(f"PYTHONUSERBASE={options.python.user_base}")


def _needed(options: UnitOptions) -> list[Path]:
    """What it is started with."""
    adapters = [options.adapter] if isinstance(options.adapter, Path) else []
    return [options.bundle, *adapters, options.python.executable]


def limits(manifest: Manifest, options: UnitOptions) -> Iterator[tuple[str, str]]:
    """What it may take of the machine."""
    provider = options.provider or manifest.target.provider
    limit = memory_limit(manifest, context=options.context, provider=provider)
    yield "MemoryMax", f"{limit // _MEBIBYTE}M"
    yield "TasksMax", "512"


def _walls(manifest: Manifest, options: UnitOptions) -> Iterator[tuple[str, str]]:
    """What it may ask of the kernel, the network and the devices."""
    provider = facts_of(manifest.target.engine).provider(options.provider or manifest.target.provider)
    on_device = provider.opens_device
    low_port = options.port <= LAST_PORT_OF_ROOT
    yield "DynamicUser", "yes"
    yield "NoNewPrivileges", "yes"
    yield "CapabilityBoundingSet", "CAP_NET_BIND_SERVICE" if low_port else ""
    yield "AmbientCapabilities", "CAP_NET_BIND_SERVICE" if low_port else ""
    yield "UMask", "0077"
    if on_device:
        # ProtectClock would close all devices but the clock; without the capability nobody sets that anyway.
        if options.groups:
            yield "SupplementaryGroups", " ".join(options.groups)
        # Shaders and kernels that the driver compiles once.
        yield "CacheDirectory", options.name
        yield "Environment", f"HOME=%C/{options.name} XDG_CACHE_HOME=%C/{options.name}"
    else:
        yield "PrivateDevices", "yes"
        yield "ProtectClock", "yes"
    if not on_device and not low_port:  # in a name space of users the right to a low port counts for nothing
        yield "PrivateUsers", "yes"
    yield "RestrictAddressFamilies", f"AF_UNIX {'AF_INET6' if options.ipv6 else 'AF_INET'}"
    yield from network_walls(options)
    yield "SystemCallArchitectures", "native"
    yield "SystemCallFilter", "@system-service"
    yield "SystemCallFilter", "~@privileged @resources"
    yield "SystemCallErrorNumber", "EPERM"
    yield "ProtectProc", "invisible"
    yield "KeyringMode", "private"
    if not on_device and not provider.makes_code:
        yield "MemoryDenyWriteExecute", "yes"
    for setting in (
        "LockPersonality",
        "ProtectControlGroups",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "RemoveIPC",
        "RestrictNamespaces",
        "RestrictRealtime",
        "RestrictSUIDSGID",
    ):
        yield setting, "yes"


def network_walls(options: UnitOptions) -> Iterator[tuple[str, str]]:
    """Whom it may talk to, and on which port it may listen."""
    if options.loopback:
        yield "IPAddressDeny", "any"
        yield "IPAddressAllow", "localhost"
    yield "SocketBindDeny", "any"
    yield "SocketBindAllow", f"tcp:{options.port}"
