"""`edgephi service`: print a systemd unit that serves a bundle."""

import contextlib
import ipaddress
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import click

from edgephi.cli.argument_types import ReadPath, WrittenPath
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
from edgephi.server.systemd.unit import HIDDEN, UnitOptions, service_unit

_UNITS = Path("/etc/systemd/system")
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
    output: Path | None,
) -> None:
    """Print a systemd unit that serves a bundle.

    The service has a user of its own, and can read the bundle and this Python environment, listen on its
    port and do nothing else. What to do with the unit is said on standard error.
    """
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
        groups=tuple(_groups_here()),
    )
    text = service_unit(manifest, options)
    files = [options.bundle, *(found.place(entry).resolve() for entry in manifest.files)]
    for path in _closed_to_others([*files, options.python.executable, *options.python.folders]):
        opened_up = shell_command("chmod", "o+rX", path)
        say(f"warning: the service's user cannot read {path}: `{opened_up}` lets it", err=True)
    unit = f"{name}.service"
    if output is None:
        say_exactly(text, nl=False)
        say(f"put it into {_UNITS / unit}", err=True)
    else:
        write_output(output, text, mode=0o644)
        say(shell_command("sudo", "install", "-m", "644", output, _UNITS / unit), err=True)
    reload = shell_command("sudo", "systemctl", "daemon-reload")
    say(f"{reload} && {shell_command('sudo', 'systemctl', 'enable', '--now', unit)}", err=True)


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


def _groups_here() -> Iterator[str]:
    """The groups of GPU device files that this machine has: a unit with another one does not start."""
    if os.name != "posix":
        return
    import grp

    for name in _GPU_GROUPS:
        with contextlib.suppress(KeyError):
            yield grp.getgrnam(name).gr_name


def _closed_to_others(paths: list[Path]) -> list[Path]:
    """The files and folders on the way to `paths` that a user who owns none of them cannot read or enter.

    Folders above what is bound into an empty folder do not count: the service sees new ones.
    """
    closed: dict[Path, None] = {}
    for path in paths:
        real = path.resolve()
        hidden = any(real.is_relative_to(folder) for folder in HIDDEN)
        above = [] if hidden else real.parents
        for place, needed in [(real, _READ_BY_OTHERS), *((parent, _ENTERED_BY_OTHERS) for parent in above)]:
            with contextlib.suppress(OSError):
                if not place.stat().st_mode & needed:
                    closed[place] = None
    return list(closed)
