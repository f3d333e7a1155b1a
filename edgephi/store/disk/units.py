"""What the units of a device's service manager name of its stores: that is never removed.

A unit that was written by hand, or by an older edgephi, may name one generation or the Python of one
environment instead of the store. It would start no more after the next boot when that had gone.

Sources: systemd.unit(5), "Unit File Load Path", and podman-systemd.unit(5) for containers.
"""

import contextlib
import itertools
import os
import pwd
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgephi.store.disk.layout import GENERATIONS_FOLDER

_OF_SYSTEM = (
    "/etc/systemd/system",
    "/etc/systemd/system.control",
    "/run/systemd/system",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/etc/systemd/user",
    "/run/systemd/user",
    "/usr/local/lib/systemd/user",
    "/usr/lib/systemd/user",
    "/etc/containers/systemd",
    "/run/containers/systemd",
    "/usr/share/containers/systemd",
)
_OF_USER = ("systemd/user", "systemd/user.control", "containers/systemd")  # below ~/.config
# Both are lists of folders with colons, which the tools that have them read as well.
_VARIABLES = ("SYSTEMD_UNIT_PATH", "QUADLET_UNIT_DIRS")
_KINDS = (".service", ".conf", ".container", ".volume", ".timer", ".path")
_LARGEST_BYTES = 1 << 20
_MOST_ENTRIES = 10_000
_DIGEST = r"[0-9a-f]{64}"
# Only the digests count, and not how a unit writes the path before them: through a link, or with escapes.
_NAMED = re.compile(
    rf"/{GENERATIONS_FOLDER}/(?P<generation>{_DIGEST})|/envs/(?P<environment>{_DIGEST})".encode()
)


@dataclass(frozen=True)
class Named:
    """Digests of generations and keys of environments that units name, whichever store they are of."""

    generations: frozenset[str]
    environments: frozenset[str]


def named_in_units() -> Named:
    """What the units name that this process can read: those of the system, and of users."""
    generations, environments = set(), set()
    for file in _unit_files():
        for found in _NAMED.finditer(_content(file)):
            if found["generation"]:
                generations.add(found["generation"].decode())
            else:
                environments.add(found["environment"].decode())
    return Named(frozenset(generations), frozenset(environments))


def _unit_files() -> Iterator[Path]:
    for folder in dict.fromkeys(_folders()):
        for entry in _entries(folder):
            if entry.name.endswith(_KINDS):
                yield Path(entry)
            elif entry.is_dir():  # drop-ins lie in folders beside their unit
                yield from (Path(each) for each in _entries(entry) if each.name.endswith(_KINDS))


def _entries(folder: os.PathLike[str]) -> list[os.DirEntry[str]]:
    """What lies in a folder; a user who fills his own keeps nobody busy."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return list(itertools.islice(entries, _MOST_ENTRIES))
    return []


def _content(file: Path) -> bytes:
    """What a unit says; nothing when it cannot be read, or is a pipe at which one would wait for ever."""
    with contextlib.suppress(OSError):
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as unit:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return unit.read(_LARGEST_BYTES)
    return b""


def _folders() -> Iterator[Path]:
    yield from map(Path, _OF_SYSTEM)
    for name in _VARIABLES:
        yield from (Path(folder) for folder in os.environ.get(name, "").split(":") if folder)
    own = os.environ.get("XDG_CONFIG_HOME")
    for config in {*([Path(own)] if own else []), *(home / ".config" for home in _homes())}:
        yield from (config / name for name in _OF_USER)


def _homes() -> Iterator[Path]:
    """The homes of this machine's users."""
    yield from {Path(user.pw_dir) for user in pwd.getpwall() if user.pw_dir not in ("", "/")}
