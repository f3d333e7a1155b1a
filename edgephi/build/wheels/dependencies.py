"""Which wheels a device needs, as its own Python will see it.

pip downloads wheels for another Python, but decides by the markers of the Python that it runs in which
dependencies there are: `typing-extensions; python_version < "3.13"` is left out on a laptop with 3.13
whatever the device has. So the requirements are followed here once more, with the device's markers.
"""

import email.parser
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from edgephi.build.wheels.platform import OLDER_TAGS


@dataclass(frozen=True)
class Wheel:
    """One wheel: its normalised name, version, the requirements of its metadata, and its size unpacked.

    `glibc` is the minor version of the oldest glibc that it works with, 0 when it asks for none.
    """

    file: Path
    name: str
    version: Version
    requires: tuple[Requirement, ...]
    extras: frozenset[str]
    installed_bytes: int
    glibc: int


@dataclass(frozen=True)
class Closure:
    """The names that are needed, with the extras asked of them, and what no wheel at hand fulfils."""

    needed: Mapping[str, frozenset[str]]
    missing: tuple[Requirement, ...]


def read_wheel(file: Path) -> Wheel:
    """Name, tags and metadata of a wheel."""
    name, version, _, tags = parse_wheel_filename(file.name)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        (metadata,) = (
            entry.filename
            for entry in entries
            if entry.filename.count("/") == 1 and entry.filename.endswith(".dist-info/METADATA")
        )
        fields = email.parser.BytesParser().parsebytes(archive.read(metadata), headersonly=True)
    return Wheel(
        file=file,
        name=str(name),
        version=version,
        requires=tuple(Requirement(text) for text in fields.get_all("Requires-Dist", [])),
        extras=frozenset(canonicalize_name(extra) for extra in fields.get_all("Provides-Extra", [])),
        installed_bytes=sum(entry.file_size for entry in entries),
        glibc=min(_glibc(tag.platform) for tag in tags),
    )


def follow(
    wheels: Mapping[str, Wheel], name: str, extras: Sequence[str], markers: Sequence[Mapping[str, str]]
) -> Closure:
    """All that `name` with `extras` needs under any of a device's markers, out of `wheels` by their names."""
    needed: dict[str, frozenset[str]] = {}
    missing: list[Requirement] = []
    waiting = [(name, frozenset(extras))]
    while waiting:
        current, wanted = waiting.pop()
        known = needed.get(current, frozenset())
        if current in needed and wanted <= known:
            continue
        needed[current] = known | wanted
        for requirement in _active(wheels[current], needed[current], markers):
            asked = canonicalize_name(requirement.name)
            wheel = wheels.get(asked)
            if wheel is None or not requirement.specifier.contains(wheel.version, prereleases=True):
                missing.append(requirement)
            else:
                waiting.append((str(asked), frozenset(requirement.extras)))
    return Closure(needed, tuple(missing))


def _active(
    wheel: Wheel, extras: frozenset[str], markers: Sequence[Mapping[str, str]]
) -> Iterator[Requirement]:
    """The requirements of a wheel with these extras that hold on the device."""
    environments = [{**each, "extra": extra} for each in markers for extra in ("", *sorted(extras))]
    for requirement in wheel.requires:
        marker = requirement.marker
        if marker is None or any(marker.evaluate(environment) for environment in environments):
            yield requirement


def _glibc(platform_tag: str) -> int:
    """Minor version of the glibc that a platform tag asks for; 0 of "any"."""
    base, _, rest = platform_tag.partition("_")
    if base in OLDER_TAGS:
        return OLDER_TAGS[base]
    return int(rest.split("_")[1]) if base == "manylinux" else 0
