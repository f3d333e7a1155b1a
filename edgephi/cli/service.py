"""`edgephi service`: print a systemd unit, or a quadlet of Podman, that serves a bundle."""

import contextlib
import grp
import ipaddress
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import click

from edgephi.cli.argument_types import NAME, ReadPath, WrittenPath
from edgephi.cli.completion import complete_bundle
from edgephi.cli.options import (
    api_key_file_option,
    device_context_option,
    host_option,
    in_store,
    ollama_option,
    opened,
    port_option,
    provider_option,
    served_system_option,
    switched_adapter_option,
)
from edgephi.cli.output_file import write_output
from edgephi.cli.service_python import check_service, python_of_store, this_python
from edgephi.cli.show.say import say, say_exactly
from edgephi.commands import shell_command
from edgephi.errors import CannotServeError, UsageError, from_os_error
from edgephi.server.systemd.quadlet import Container, quadlet, secrets_of
from edgephi.server.systemd.unit import HIDDEN, UnitOptions, service_unit

_UNITS = Path("/etc/systemd/system")
_QUADLETS = Path("/etc/containers/systemd")
_OWN_IMAGE = "localhost/edgephi"
_GPU_GROUPS = ("render", "video")
_READ_BY_OTHERS, _ENTERED_BY_OTHERS = 0o004, 0o001


def _unit_name(_context: click.Context, _option: click.Parameter, value: str) -> str:
    name = value.removesuffix(".service")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise click.BadParameter(f"expected letters, digits, dots, dashes and underscores, found {value!r}")
    return name


@click.command(no_args_is_help=True)
@click.argument("bundle", type=ReadPath(), shell_complete=complete_bundle)
@host_option
@port_option(may_be_free=False)
@api_key_file_option(otherwise="none")
@served_system_option
@device_context_option
@provider_option
@switched_adapter_option
@ollama_option
@click.option(
    "--name",
    default="edgephi",
    show_default=True,
    callback=_unit_name,
    metavar="NAME",
    help="Name of the service.",
)
@click.option("--quadlet", "contained", is_flag=True, help="Print a quadlet: Podman runs a container then.")
@click.option(
    "--image",
    type=NAME,
    metavar="IMAGE",
    help=f"With --quadlet: the image that has edgephi and the engine. [default: {_OWN_IMAGE}]",
)
@click.option(
    "-o",
    "--output",
    type=WrittenPath(),
    metavar="FILE",
    help="Write the unit to this file instead of standard output.",
)
def service(
    bundle: Path,
    *,
    host: str,
    port: int,
    api_key_file: Path | None,
    system: str | None,
    context: int | None,
    provider: str | None,
    adapter: str | None,
    ollama: bool,
    name: str,
    contained: bool,
    image: str | None,
    output: Path | None,
) -> None:
    """Print a systemd unit that serves a bundle.

    The service has a user of its own, and can read the bundle and this Python environment, listen on its
    port and do nothing else. What to do with the unit is said on standard error.
    """
    if image is not None and not contained:
        raise UsageError("expected --quadlet with --image, found no --quadlet", hint="give both, or neither")
    from edgephi.bundle.adapter_artifact import open_bundle

    generation = opened(bundle)
    found = open_bundle(generation, adapter)
    manifest = found.manifest
    root = None
    if in_store(bundle):
        from edgephi.store.opening import followed_store

        root = followed_store(bundle)  # the unit names it, so that each start serves what is active then
    stores = python_of_store(root, generation.name) if root is not None else None
    python = stores or this_python()
    if not contained:  # an image has its own
        check_service(manifest, provider or manifest.target.provider, python)
    address = _address(host, port)
    if api_key_file is None and not address.is_loopback:
        raise UsageError(
            f"expected an API key with the address {host}, which others can reach, found none",
            hint=f"`{shell_command('openssl', 'rand', '-hex', '32')}` makes one for --api-key-file; "
            "or listen on 127.0.0.1",
        )
    system_file = Path(system[1:]) if system is not None and system.startswith("@") else None
    options = UnitOptions(
        bundle=(root or bundle).resolve(),
        python=python,
        host=host,
        port=port,
        loopback=address.is_loopback,
        ipv6=address.version == 6,
        api_key_file=_existing_secret(api_key_file),
        system=system if system_file is None else None,
        system_file=_existing(system_file),
        context=context,
        provider=provider,
        adapter=adapter if found.beside == generation else found.beside.resolve(),
        ollama=ollama,
        name=name,
        groups=tuple(group.gr_name for group in _groups_here()),
    )
    files = [options.bundle, *(found.place(entry).resolve() for entry in manifest.files)]
    reload = shell_command("sudo", "systemctl", "daemon-reload")
    if contained:
        numbers = tuple(group.gr_gid for group in _groups_here())
        text = quadlet(manifest, options, Container(image or _OWN_IMAGE, address, numbers))
        _warn(_closed_to_others(files, bound=True))
        _give(text, output, _QUADLETS / f"{name}.container")
        for secret, file in secrets_of(options).items():
            say(shell_command("sudo", "podman", "secret", "create", secret, file), err=True)
        # Made by Podman's generator: `enable` knows none of it, and [Install] is heeded all the same.
        say(f"{reload} && {shell_command('sudo', 'systemctl', 'start', f'{name}.service')}", err=True)
        return
    text = service_unit(manifest, options)
    _warn(_closed_to_others([*files, options.python.executable, *options.python.folders]))
    _give(text, output, _UNITS / f"{name}.service")
    say(f"{reload} && {shell_command('sudo', 'systemctl', 'enable', '--now', f'{name}.service')}", err=True)


def _warn(closed: list[Path]) -> None:
    """Say what the service's user cannot read."""
    for path in closed:
        opened_up = shell_command("chmod", "o+rX", path)
        say(f"warning: the service's user cannot read {path}: `{opened_up}` lets it", err=True)


def _give(text: str, output: Path | None, place: Path) -> None:
    """Print or write a unit, and say how it comes to its place."""
    if output is None:
        say_exactly(text, nl=False)
        say(f"put it into {place}", err=True)
    else:
        write_output(output, text, mode=0o644)
        say(shell_command("sudo", "install", "-D", "-m", "644", output, place), err=True)


def _address(host: str, port: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address that `edgephi serve` would listen on."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return ipaddress.ip_address(str(found[0][4][0]).partition("%")[0])
    except (OSError, UnicodeError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else "not a host's name"
        raise CannotServeError(
            f"cannot listen on {host} port {port}: {reason}",
            hint="give an address of this machine, such as 127.0.0.1",
        ) from None


def _existing(file: Path | None) -> Path | None:
    """The absolute path of a file. One in a folder that only root may enter is root's to check."""
    if file is None:
        return None
    absolute = file.parent.resolve() / file.name
    try:
        absolute.stat()
    except PermissionError:
        pass
    except OSError as cause:
        raise from_os_error(cause, place=file) from None
    return absolute


def _existing_secret(file: Path | None) -> Path | None:
    """The same of a file that others must not be able to read. Raises BadInputError when they are."""
    from edgephi.guards.secret_file import check_secret_file

    absolute = _existing(file)
    if absolute is not None and os.access(absolute.parent, os.X_OK):
        check_secret_file(absolute, "an API key", group_may=True)
    return absolute


def _groups_here() -> "Iterator[grp.struct_group]":
    """The groups of GPU device files that this machine has: a unit with another one does not start."""
    for name in _GPU_GROUPS:
        with contextlib.suppress(KeyError):
            yield grp.getgrnam(name)


def _closed_to_others(paths: list[Path], *, bound: bool = False) -> list[Path]:
    """The files and folders on the way to `paths` that a user who owns none of them cannot read or enter.

    Folders above what is bound into an empty folder, as all is that is `bound`, do not count: the service
    sees new ones.
    """
    closed: dict[Path, None] = {}
    for path in paths:
        real = path.resolve()
        hidden = bound or any(real.is_relative_to(folder) for folder in HIDDEN)
        above = [] if hidden else real.parents
        for place, needed in [(real, _READ_BY_OTHERS), *((parent, _ENTERED_BY_OTHERS) for parent in above)]:
            with contextlib.suppress(OSError):
                if not place.stat().st_mode & needed:
                    closed[place] = None
    return list(closed)
