"""The Python environment of a generation: one that the device has, or one made from the bundle's wheels.

ROOT/envs/<digest>/ is a virtual environment; the digest is that of the wheels' requirements, which pin every
one of them by its hash, so that generations with the same wheels share it. `ROOT/envs/edgephi` is a command
that stays where it is: it runs the edgephi of whatever generation is current.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgephi.errors import BadBundleError, EdgephiError, NotSupportedError
from edgephi.manifest import Manifest, Wheelhouse, encode_manifest
from edgephi.runtime.engines import check_version, is_emulated
from edgephi.store.durable import rename, replace_file
from edgephi.store.generations import manifest_of
from edgephi.store.layout import Layout
from edgephi.store.wheels import base_interpreter, make_environment, unpack_wheel

_SECONDS = 120
_COMMAND = "edgephi"
_BEING_BUILT = ".tmp-"
_BLOCK_BYTES = 512
# Asks another Python for its edgephi and engine: can it read this manifest, and can the engine be used?
_QUESTION = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints, also behind the answer
from edgephi.manifest import decode_manifest
decode_manifest(sys.stdin.buffer.read())
import edgephi.cli.run
from edgephi.runtime.availability import main
print(json.dumps(main(sys.argv[1], sys.argv[2:])), file=answers, flush=True)
"""
# `current` decides, so that the command changes over in the same moment as the generation.
_SCRIPT = """#!/bin/sh
# Runs the edgephi of the current generation: edgephi run ROOT/current "hello"
here=$(dirname "$(readlink -f "$0")")
for file in "$here"/../current/wheels/*/requirements.txt; do
    python="$here/$(sha256sum < "$file" | cut -c 1-64)/bin/python"
    [ -x "$python" ] && exec "$python" -P -m edgephi.cli "$@"
done
echo "error: expected an environment for the current generation in $here, found none" >&2
echo "hint: flash the bundle again" >&2
exit 3
"""


@dataclass(frozen=True)
class Runtime:
    """What will run a bundle: a Python that has its engine, or the bundle's wheels that make one.

    `base` is the Python that an environment is made of. `needs_bytes` is the disk that making it takes.
    """

    interpreter: str | None
    wheelhouse: Wheelhouse | None
    base: str = ""
    needs_bytes: int = 0


def choose_runtime(layout: Layout, manifest: Manifest, *, interpreter: str | None = None) -> Runtime:
    """Find what will run a bundle, writing nothing. Raises NotSupportedError when nothing will.

    A Python that has edgephi and the engine already comes first: `interpreter`, or this very one and the one
    on the path.
    """
    problems = []
    for candidate in _interpreters(interpreter):
        problem = _problem(candidate, manifest)
        if problem is None:
            return Runtime(candidate, None)
        problems.append(problem)
    for wheelhouse in manifest.wheels if interpreter is None else ():
        base = _base_for(wheelhouse)
        if base is not None:
            folder = _folder(layout, manifest, wheelhouse)
            return Runtime(None, wheelhouse, base, 0 if _works(folder) else wheelhouse.installed_bytes)
    raise NotSupportedError(f"{manifest.name}: {problems[0]}", hint=_hint(manifest, interpreter))


def prepare(layout: Layout, runtime: Runtime, bundle: Path, progress: Callable[[int], None]) -> str:
    """The Python to run the bundle in folder `bundle` with, made from its wheels where it must be.

    An environment is there whole or not at all. `progress` is told of bytes unpacked. Raises BadBundleError
    when a file is no wheel.
    """
    if runtime.interpreter is not None:
        return runtime.interpreter
    wheelhouse = runtime.wheelhouse
    assert wheelhouse is not None  # noqa: S101 - there is the one or the other
    folder = _folder(layout, _manifest_in(layout, bundle), wheelhouse)
    _make_command(layout)
    if not _works(folder):
        building = folder.with_name(_BEING_BUILT + folder.name)
        shutil.rmtree(building, ignore_errors=True)
        try:
            packages = make_environment(building, runtime.base, wheelhouse.python)
            for wheel in sorted((bundle / wheelhouse.folder).glob("*.whl")):
                unpack_wheel(wheel, building, packages, progress)
            os.sync()  # thousands of files: one call for the disk, instead of one for each
            shutil.rmtree(folder, ignore_errors=True)  # what is there does not work
            rename(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return str(folder / "bin" / "python")


def environment_of(layout: Layout, manifest: Manifest) -> Path | None:
    """The environment that was made for a generation; None when it runs in the device's own Python."""
    folders = (_folder(layout, manifest, wheelhouse) for wheelhouse in manifest.wheels)
    return next(filter(_works, folders), None)


def collect_environments(layout: Layout, kept: Iterable[str], *, dry_run: bool = False) -> int:
    """Remove the environments that none of the generations `kept` needs. Returns their bytes on the disk."""
    if not layout.environments.is_dir():
        return 0
    needed = {_COMMAND}
    for digest in kept:
        manifest = manifest_of(layout, digest)
        needed |= {_folder(layout, manifest, wheelhouse).name for wheelhouse in manifest.wheels}
    freed = 0
    for path in sorted(layout.environments.iterdir()):
        if path.name not in needed:
            freed += _bytes_on_disk(path)
            if not dry_run:
                shutil.rmtree(path)
    return freed


def _interpreters(asked: str | None) -> Iterator[str]:
    """The Pythons of the device that may have edgephi."""
    if asked is not None:
        yield asked
        return
    if sys.executable:
        yield sys.executable
    on_path = shutil.which("python3")
    if on_path is not None and Path(on_path).resolve() != Path(sys.executable).resolve():
        yield on_path


def _problem(interpreter: str, manifest: Manifest) -> str | None:
    """Why a Python cannot run the bundle; None when it can."""
    engine, provider = manifest.target.engine, manifest.target.provider
    try:
        done = subprocess.run(
            [interpreter, "-P", "-c", _QUESTION, engine, provider],
            input=encode_manifest(manifest),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as cause:
        return f"{interpreter}: expected a Python with edgephi and {engine}, found {cause}"
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        found = "none" if said.startswith("ModuleNotFoundError") else said or f"exit code {done.returncode}"
        return f"{interpreter}: expected edgephi with {engine}, found {found}"
    answer = json.loads(done.stdout)
    if answer["version"] is None:
        return f"{interpreter}: expected {engine}, found none"
    try:
        check_version(engine, answer["version"], manifest.requires.engines.get(engine, ""))
    except EdgephiError as error:
        return f"{interpreter}: {error.message}"
    problem = answer["problems"][provider]
    if any(is_emulated(each) and not found for each, found in answer["problems"].items()):
        return None  # `run` takes the emulator, and says so
    return f"{interpreter}: {engine} on {provider}: {problem}" if problem else None


def _base_for(wheelhouse: Wheelhouse) -> str | None:
    """A Python of this machine that takes the wheels; None when there is none."""
    machine = wheelhouse.platform.removeprefix("linux-").partition("-cp")[0]
    if machine != platform.machine() or _numbers(wheelhouse.glibc) > _numbers(_glibc()):
        return None
    if platform.python_implementation() == "CPython" and _python_version() == wheelhouse.python:
        return base_interpreter()
    found = shutil.which(f"python{wheelhouse.python}")
    return None if found is None else str(Path(found).resolve())


def _hint(manifest: Manifest, interpreter: str | None) -> str:
    """What would help where neither a Python nor any of the bundle's wheels fits."""
    here = f"linux-{platform.machine()}-cp{_python_version().replace('.', '')}"
    if interpreter is not None:
        return "name another Python, or none to have one chosen"
    carried = ", ".join(wheelhouse.platform for wheelhouse in manifest.wheels)
    why = f"the bundle's wheels are for {carried}" if carried else "the bundle carries no wheels"
    older = f" with glibc {_glibc()}" if carried else ""
    return f"{why}: build it with --wheels {here}, which fits this device{older}, or install edgephi on it"


def _folder(layout: Layout, manifest: Manifest, wheelhouse: Wheelhouse) -> Path:
    digests = (entry.sha256 for entry in manifest.files if entry.path == wheelhouse.requirements)
    return layout.environments / next(digests)


def _manifest_in(layout: Layout, bundle: Path) -> Manifest:
    if bundle.parent != layout.generations:
        raise BadBundleError(f"{bundle}: expected a generation of {layout.root}", hint="flash the bundle")
    return manifest_of(layout, bundle.name)


def _works(environment: Path) -> bool:
    """Whether an environment is there and its Python still is: the system's may have been replaced."""
    python = environment / "bin" / "python"
    if not python.is_file():
        return False
    done = subprocess.run([python, "-P", "-c", "import edgephi"], capture_output=True, check=False)
    return done.returncode == 0


def _make_command(layout: Layout) -> None:
    layout.environments.mkdir(mode=0o755, exist_ok=True)
    command = layout.environments / _COMMAND
    if not command.is_file() or command.read_text() != _SCRIPT:
        replace_file(command, _SCRIPT.encode(), mode=0o755)


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _glibc() -> str:
    """The version of this system's glibc; "0" where it has another library."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ") or "0"
    except (ValueError, OSError):
        return "0"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _bytes_on_disk(folder: Path) -> int:
    return sum(path.lstat().st_blocks * _BLOCK_BYTES for path in folder.rglob("*"))
