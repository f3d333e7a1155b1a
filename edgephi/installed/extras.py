"""The extras of edgephi: which packages each of them asks for, and which of them are here.

All is read from what was installed with edgephi, so that it is what pip was told. Standard library only.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgephi.installed.version_range import is_inside

_NAME = "edgephi"
# These stand for others.
_COLLECTIONS = frozenset({"all", "test"})
# The packages of these hold the same modules: one of them takes the place of the others.
_INSTEAD_OF = {
    "cuda": {"cpu", "gguf-vision", "qnn"},
    **{extra: {"cuda"} for extra in ("cpu", "gguf-vision", "qnn")},
}
_REQUIREMENT = re.compile(
    r"(?P<package>[\w.-]+)\s*(\[[^]]*\])?\s*\(?(?P<allowed>[^;()]*)\)?\s*(;(?P<marker>.*))?"
)
_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w.-]+)['"]""")
_PLATFORM = re.compile(r"""sys_platform\s*(==|!=)\s*['"](\w+)['"]""")


@dataclass(frozen=True)
class OutOfRange:
    """A package that is installed in a version for which edgephi is not made.

    `allowed` is what its extra asks for; `extra` is "" for what edgephi needs always.
    """

    package: str
    installed: str
    allowed: str
    extra: str


def with_installed(extras: Sequence[str]) -> list[str]:
    """These extras and those that are here already, for pip, which looks at nothing that it is not given."""
    instead = {other for extra in extras for other in _INSTEAD_OF.get(extra, ())}
    return sorted({*extras, *(extra for extra in installed_extras() if extra not in instead)})


def installed_extras() -> list[str]:
    """The extras whose packages are all here, in whatever version."""
    packages: dict[str, list[str]] = {}
    for extra, package, _allowed in _requirements():
        if extra and extra not in _COLLECTIONS:
            packages.setdefault(extra, []).append(package)
    return sorted(extra for extra, names in packages.items() if all(map(_version, names)))


def out_of_range() -> list[OutOfRange]:
    """The packages that are here in a version that edgephi does not ask for."""
    found = []
    for extra, package, allowed in _requirements():
        version = _version(package) if extra not in _COLLECTIONS else None
        if version is not None and not _fits(version, allowed):
            found.append(OutOfRange(package, version, allowed, extra))
    return sorted(found, key=lambda each: (each.package, each.extra))


def _fits(version: str, allowed: str) -> bool:
    try:
        return is_inside(version, allowed)
    except ValueError:  # of a kind that we do not read: nothing is known against it
        return True


def _requirements() -> Iterator[tuple[str, str, str]]:
    """What edgephi asks for on this platform: extra, package and range."""
    from importlib import metadata  # a megabyte for the engine's process, which asks for none

    try:
        texts = metadata.requires(_NAME) or []
    except metadata.PackageNotFoundError:
        return
    for text in texts:
        parts = _REQUIREMENT.fullmatch(text.strip())
        if parts is None:
            continue
        marker = parts["marker"] or ""
        if all((sys.platform == name) == (sign == "==") for sign, name in _PLATFORM.findall(marker)):
            for extra in _EXTRA.findall(marker) or [""]:
                yield extra, parts["package"], _lower_end_first(parts["allowed"])


def _lower_end_first(allowed: str) -> str:
    return ",".join(sorted((part.strip() for part in allowed.split(",")), key=lambda part: part[:1] == "<"))


def _version(package: str) -> str | None:
    """The version of a package that is here; None when it is not."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
