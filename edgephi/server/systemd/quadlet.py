"""A quadlet for `edgephi serve`: a unit of which Podman makes a systemd service that runs a container.

The image holds edgephi and an engine, and no model: the bundle, or the store, is bound into it. Source:
podman-systemd.unit(5). Every key is known to Podman 4.5; what is newer goes by `PodmanArgs`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.manifest import Manifest
from edgephi.commands import shell_command
from edgephi.engines.facts.registry import facts_of
from edgephi.errors import UsageError
from edgephi.guards.no_telemetry import VARIABLES
from edgephi.server.systemd.unit import (
    LAST_PORT_OF_ROOT,
    STOP_MARGIN_SECONDS,
    UnitOptions,
    limits,
    network_walls,
    plain,
    quoted_argument,
    restarts,
    serve_words,
    written,
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_BUNDLE, _ADAPTER = Path("/bundle"), Path("/adapter")
_SECRETS = Path("/run/secrets")
_USER = 65532  # nobody's in any distribution; files need no owner
_CUDA_DEVICE = "nvidia.com/gpu=all"  # as NVIDIA's toolkit calls it; see the Container Device Interface
_GRAPHICS_DEVICE = "-/dev/dri"  # where there is none, the unit starts all the same
# Podman reads a volume's path up to a colon and an option's up to a comma, and none of its quotes.
_PLAIN_PATH = re.compile(r"[\w@+./=-]+")
_IMAGE = re.compile(r"[A-Za-z0-9][\w./:@-]*", re.ASCII)


@dataclass(frozen=True)
class Container:
    """What a quadlet says beside the options of a unit.

    `address` is what the service listens on, `groups` are the numbers of the groups that own the GPU's files.
    """

    image: str
    address: Address
    groups: tuple[int, ...] = ()


def quadlet(manifest: Manifest, options: UnitOptions, container: Container) -> str:
    """The text of `NAME.container`. The API key and the system message are the secrets of `secrets_of`.

    Raises UsageError for an image or a path that no quadlet can name, NotSupportedError for an engine or
    provider that this edgephi does not know.
    """
    if not _IMAGE.fullmatch(container.image):
        raise UsageError(
            f"expected the name of an image, such as localhost/edgephi, found {container.image!r}",
            hint="give the name that `podman images` shows",
        )
    return written(
        {
            "Unit": [
                ("Description", f"edgephi serve: {plain(manifest.name)}"),
                ("Documentation", "man:podman-systemd.unit(5)"),
                ("StartLimitIntervalSec", "0"),
            ],
            "Container": [
                *_image(manifest, options, container),
                *_volumes(options),
                *_health(options, container.address),
            ],
            "Service": [
                ("TimeoutStartSec", "15min"),
                *restarts(),
                # Podman stops it within its own time, which must be the shorter one.
                ("TimeoutStopSec", str(options.grace + 2 * STOP_MARGIN_SECONDS)),
                ("OOMPolicy", "continue"),
                # The container lies in the control group of its service.
                *limits(manifest, options),
                *network_walls(options),
            ],
            # Of the system, and of a user, who has no other target.
            "Install": [("WantedBy", "multi-user.target default.target")],
        }
    )


def secrets_of(options: UnitOptions) -> dict[str, Path]:
    """The files that Podman must be given as secrets, by the secrets' names."""
    wanted = {"api-key": options.api_key_file, "system": options.system_file}
    return {f"{options.name}-{what}": file for what, file in wanted.items() if file is not None}


def _image(manifest: Manifest, options: UnitOptions, container: Container) -> Iterator[tuple[str, str]]:
    """What runs, as whom, and what it may do."""
    yield "Image", container.image
    yield "ContainerName", options.name
    yield "Exec", " ".join(map(quoted_argument, _words(options)))
    yield "Notify", "true"  # it counts as started when the first token was generated
    yield "Environment", " ".join(f"{name}={value}" for name, value in {**VARIABLES, "HOME": "/tmp"}.items())  # noqa: S108
    # A box that starts without a network needs none; and the unit lets nothing out.
    yield "PodmanArgs", f"--pull=never --stop-timeout={options.grace + STOP_MARGIN_SECONDS}"
    # The unit says whom it may talk to. An address of this machine would mean nothing in another network.
    yield "Network", "host"
    yield "User", str(_USER)
    yield "Group", str(_USER)
    yield "ReadOnly", "true"
    yield "NoNewPrivileges", "true"
    yield "DropCapability", "all"
    if options.port <= LAST_PORT_OF_ROOT:
        yield "AddCapability", "CAP_NET_BIND_SERVICE"
    provider = options.provider or manifest.target.provider
    if facts_of(manifest.target.engine).provider(provider).opens_device:
        yield "AddDevice", _CUDA_DEVICE if provider == "cuda" else _GRAPHICS_DEVICE
        for group in container.groups:
            yield "PodmanArgs", f"--group-add={group}"
    for secret in secrets_of(options):
        yield "Secret", f"{secret},type=mount,uid={_USER},gid={_USER},mode=0400"


def _words(options: UnitOptions) -> list[str]:
    adapter = _ADAPTER if isinstance(options.adapter, Path) else options.adapter
    words = serve_words(options, _BUNDLE, adapter)
    if options.api_key_file is not None:
        words += ["--api-key-file", str(_SECRETS / f"{options.name}-api-key")]
    if options.system_file is not None:
        words += ["--system", f"@{_SECRETS / f'{options.name}-system'}"]
    return words


def _volumes(options: UnitOptions) -> Iterator[tuple[str, str]]:
    bound = {_BUNDLE: options.bundle}
    if isinstance(options.adapter, Path):
        bound[_ADAPTER] = options.adapter
    for inside, path in bound.items():
        if not _PLAIN_PATH.fullmatch(str(path)):
            raise UsageError(
                f"expected a path that Podman can bind, of letters, digits and @+./=_-, found {str(path)!r}",
                hint="give the folder another name",
            )
        # Where SELinux is, `z` lets containers read it.
        yield "Volume", f"{path}:{inside}:ro,z"


def _health(options: UnitOptions, address: Address) -> Iterator[tuple[str, str]]:
    """How a server is found that hangs: the watchdog of systemd does not reach into a container."""
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    host = f"[{address}]" if address.version == 6 else str(address)
    url = f"http://{host}:{options.port}/health"
    asked = f'import urllib.request as r; r.urlopen("{url}", timeout=20)'
    yield "HealthCmd", shell_command("python3", "-c", asked)
    yield "HealthInterval", "30s"
    yield "HealthTimeout", "25s"
    yield "HealthRetries", "3"
    yield "HealthStartPeriod", "15m"
    yield "HealthOnFailure", "kill"  # then it is started again
