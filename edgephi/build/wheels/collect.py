"""Fill one folder with all wheels that a device needs, and with the requirements that pin them by hash."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from edgephi.build.wheels.dependencies import Closure, Wheel, follow, read_wheel
from edgephi.build.wheels.own_wheel import NAME
from edgephi.build.wheels.pip import run_pip
from edgephi.build.wheels.platform import Platform
from edgephi.bundle.manifest import REQUIREMENTS_NAME, Wheelhouse
from edgephi.bundle.unfinished import file_sha256
from edgephi.errors import NotSupportedError

# Each round asks for what the markers of this machine's Python have hidden from pip; few packages have any.
_ROUNDS = 5


def collect(
    folder: Path, platform: Platform, extras: Sequence[str], *, own_wheel: Path, scratch: Path
) -> Wheelhouse:
    """Fill the new folder `folder` for a platform: edgephi with `extras`, and all that these need.

    `scratch` is a folder for temporary files on the same disk. Raises NotSupportedError when a package has
    no wheel for the platform, and what `run_pip` raises.
    """
    where = f"wheels for {platform.name}"
    own = read_wheel(own_wheel)
    unknown = sorted(set(extras) - own.extras)
    if unknown:
        raise NotSupportedError(
            f"{where}: expected an extra of edgephi {own.version}, found {', '.join(unknown)}",
            hint=f"it has {', '.join(sorted(own.extras))}",
        )
    wheels, closure = _download(platform, extras, own_wheel=own_wheel, scratch=scratch, where=where)
    folder.mkdir(parents=True)
    needed = [wheels[name] for name in sorted(closure.needed)]
    for wheel in needed:
        shutil.move(wheel.file, folder / wheel.file.name)
    (folder / REQUIREMENTS_NAME).write_text(_requirements(folder, needed, closure.needed), encoding="utf-8")
    return Wheelhouse(
        platform=platform.name,
        python=platform.python_version,
        glibc=f"2.{max(wheel.glibc for wheel in needed)}",
        extras=tuple(sorted(extras)),
        installed_bytes=sum(wheel.installed_bytes for wheel in needed),
    )


def _download(
    platform: Platform, extras: Sequence[str], *, own_wheel: Path, scratch: Path, where: str
) -> tuple[Mapping[str, Wheel], Closure]:
    """Have pip choose and download wheels until nothing is missing on the device."""
    roots = [f"{NAME}[{','.join(sorted(extras))}] @ {own_wheel.absolute().as_uri()}"]
    missing: tuple[Requirement, ...] = ()
    for count in range(_ROUNDS):
        downloads = scratch / f"{platform.name}-{count}"
        choices = [word for tag in platform.tags for word in ("--platform", tag)]
        run_pip(
            [
                "download",
                "--only-binary=:all:",
                *choices,
                *("--python-version", platform.python_version),
                *("--implementation", "cp"),
                *("--abi", f"cp3{platform.python}", "--abi", "abi3", "--abi", "none"),
                *("--dest", str(downloads)),
                *roots,
            ],
            scratch=scratch,
            where=where,
        )
        wheels = {wheel.name: wheel for wheel in map(read_wheel, sorted(downloads.glob("*.whl")))}
        closure = follow(wheels, NAME, extras, platform.markers)
        missing = closure.missing
        if not missing:
            return wheels, closure
        roots += [str(_without_marker(requirement)) for requirement in missing]
    names = ", ".join(sorted({requirement.name for requirement in missing}))
    raise NotSupportedError(
        f"{where}: no versions of {names} fit the other packages",
        hint=f"build with Python {platform.python_version} on such a machine",
    )


def _without_marker(requirement: Requirement) -> Requirement:
    """The requirement without its condition, which holds on the device and perhaps not here."""
    plain = Requirement(str(requirement))
    plain.marker = None
    return plain


def _requirements(folder: Path, wheels: Sequence[Wheel], needed: Mapping[str, frozenset[str]]) -> str:
    """A requirements file for pip that can take nothing but these very wheels, from its own folder."""
    lines = ["# Install: pip install -r FILE", "--no-index", "--find-links .", "--require-hashes"]
    for wheel in wheels:
        extras = ",".join(sorted(needed[wheel.name]))
        pinned = f"{wheel.name}{f'[{extras}]' if extras else ''}=={wheel.version}"
        lines.append(f"{pinned} --hash=sha256:{file_sha256(folder / wheel.file.name)}")
    return "\n".join([*lines, ""])
