"""Which Python starts a service, the store's or the one that runs this: what it reads, and whether it can."""

import os
import site
import sys
from collections.abc import Iterator
from pathlib import Path

import edgephi
from edgephi.bundle.manifest import Manifest
from edgephi.commands import command_of_store, install_command
from edgephi.engines.facts.packages import installed_version
from edgephi.engines.facts.registry import facts_of
from edgephi.errors import NotSupportedError
from edgephi.runtime.adapter import check_version
from edgephi.server.packages import extras_of_service, missing_packages
from edgephi.server.systemd.unit import PythonHome

_PACKAGES = ("site-packages", "dist-packages")


def python_of_store(root: Path, digest: str) -> PythonHome | None:
    """The command of the store at `root`, which stays while what it starts goes with its generation.

    `digest` is the active one. None where there is no such command, or it starts another Python of the device
    than the one that runs this: who calls that one wants it.
    """
    from edgephi.store.disk.layout import Layout
    from edgephi.store.environments.folders import command_of, devices_python_of, environment_of

    layout = Layout(root.resolve())
    command = command_of(layout)
    if not (command.is_file() and os.access(command, os.X_OK)):
        return None
    environment = environment_of(layout, digest)
    if environment is not None and (environment / "bin" / "python").is_file():
        folders = {layout.root, *_links(environment / "bin" / "python"), *_bases(environment)}
        return PythonHome(command, tuple(sorted(folders)), of_store=True, packages=_packages(environment))
    python = devices_python_of(layout, digest)
    if python is None or not _is_this(python):
        return None
    own = _own()
    return PythonHome(command, tuple(sorted({layout.root, *own.folders})), own.user_base, of_store=True)


def this_python() -> PythonHome:
    """The Python that runs this, with all the folders that its modules and libraries come from.

    One that was made from a bundle's wheels goes with that bundle: then it is the command of its store.
    """
    command = command_of_store()
    if command is None:
        return _own()
    root = command.resolve().parent.parent
    folders = {root, Path(sys.base_prefix), *_links(Path(sys.executable))}
    return PythonHome(command.resolve(), tuple(sorted(folders)), of_store=True)


def check_service(manifest: Manifest, provider: str, python: PythonHome) -> None:
    """See that the Python of a service can serve a bundle: a unit for another one would fail at each start.

    Raises NotSupportedError when the engine, or an extra, is not installed there. What a release's wheels
    hold of its engine was seen when it answered.
    """
    sees = manifest.model.images is not None
    missing = missing_packages(sees=sees, folders=python.packages)
    facts = facts_of(manifest.target.engine)
    if python.packages is not None:
        if missing:
            raise NotSupportedError(
                f"the service needs {' and '.join(missing)}, not among the wheels of {manifest.name}",
                hint="build the bundle again with `--wheels-for serve`, and flash it",
            )
        return
    version = installed_version(facts)
    if version is None:
        missing.insert(0, facts.provider(provider).package)
    if missing:
        extras = (
            facts.provider(provider).extra,
            *extras_of_service(sees=sees, seeing_extra=facts.seeing_extra),
        )
        raise NotSupportedError(
            f"the service needs {' and '.join(missing)}, not installed in {sys.executable}",
            hint=install_command(*extras),
        )
    check_version(facts.name, version or "", manifest.requires.engines.get(facts.name, ""))


def _own() -> PythonHome:
    # The link in a virtual environment stays: Python finds the environment by it.
    executable = Path(sys.executable).parent.resolve() / Path(sys.executable).name
    folders = {Path(sys.prefix), Path(sys.base_prefix), Path(edgephi.__file__).parent, *_links(executable)}
    # Those too that a `.pth` file adds, and not the working folder.
    folders |= {path for path in map(Path, sys.path) if path.name in _PACKAGES and path.is_dir()}
    user_base = None
    if site.ENABLE_USER_SITE and Path(site.getusersitepackages()).is_dir():
        user_base = Path(site.getuserbase())
        folders.add(Path(site.getusersitepackages()))
    return PythonHome(executable, tuple(sorted(folders)), user_base)


def _is_this(python: Path) -> bool:
    """Whether a path is that of the running Python, by any of the names that it has in its folder."""
    own = Path(sys.executable)
    try:
        return python.parent.resolve() == own.parent.resolve() and python.samefile(own)
    except OSError:
        return False


def _links(link: Path) -> Iterator[Path]:
    """What a link leads to, step by step."""
    while link.is_symlink():
        link = Path(os.path.normpath(link.parent / link.readlink()))
        yield link


def _bases(environment: Path) -> Iterator[Path]:
    """The installation that an environment was made from; see PEP 405."""
    for line in (environment / "pyvenv.cfg").read_text().splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "home":
            yield Path(value.strip()).parent


def _packages(environment: Path) -> tuple[Path, ...]:
    return tuple(sorted(environment.glob("lib/python3*/site-packages")))
