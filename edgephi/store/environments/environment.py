"""What will run a generation: a Python that the device has, or one made from the bundle's wheels."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.manifest import Manifest, Wheelhouse, encode_manifest
from edgephi.commands import command_of_store
from edgephi.errors import EdgephiError, NotSupportedError
from edgephi.processes.child_process import run_child
from edgephi.runtime.adapter import check_version, is_emulated
from edgephi.store.disk.layout import Layout
from edgephi.store.environments.folders import environment_of, folder_of
from edgephi.store.environments.record import UNSIGNED, environment_key, wheels_of
from edgephi.store.environments.wheels import base_interpreter

_SECONDS = 120
# Asks another Python for its edgephi and engine: can it read this manifest, and can the engine be used? That
# edgephi may be older than this one, and no module is older than all of them: hence a text, and not `ask`.
_QUESTION = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints, also behind the answer
engine, *providers = sys.argv[1:]
try:
    from edgephi.bundle.manifest import decode_manifest
    from edgephi.runtime.engines.availability import EngineQuestion, look
    looked = lambda: vars(look(EngineQuestion(engine, tuple(providers))))
except ImportError:  # an edgephi from before its files lay in rooms
    from edgephi.manifest import decode_manifest
    from edgephi.runtime.availability import main
    looked = lambda: main(engine, providers)
decode_manifest(sys.stdin.buffer.read())
import edgephi.cli.run
print(json.dumps(looked()), file=answers, flush=True)
"""


@dataclass(frozen=True)
class Runtime:
    """What will run a bundle: a Python that has its engine, or the bundle's wheels that make one.

    `base` is the Python that an environment is made of, `key` its name. `needs_bytes` is the disk that making
    it takes. `vouched_by`: the fingerprint of the key that signed the bundle, or `UNSIGNED`.
    """

    interpreter: str | None
    wheelhouse: Wheelhouse | None
    base: str = ""
    key: str = ""
    needs_bytes: int = 0
    vouched_by: str = UNSIGNED


def choose_runtime(
    layout: Layout, manifest: Manifest, *, interpreter: str | None = None, vouched_by: str = UNSIGNED
) -> Runtime:
    """Find what will run a bundle, writing nothing. Raises NotSupportedError when nothing will.

    A Python that has edgephi and the engine already comes first: `interpreter`, or this very one and the one
    on the path. An environment of a store is none, also when it runs this: it is of other bundles, and goes
    with them. One that is there for this bundle is looked at when it is used: it may have to be made anew.
    """
    problems = []
    for candidate in _interpreters(layout, interpreter):
        problem = _problem(candidate, manifest)
        if problem is None:
            return Runtime(candidate, None, vouched_by=vouched_by)
        problems.append(problem)
    for wheelhouse in manifest.wheels if interpreter is None else ():
        base = _base_for(wheelhouse)
        if base is not None:
            key = environment_key(wheelhouse.python, wheels_of(manifest, wheelhouse), vouched_by)
            is_there = (
                folder_of(layout, key) / "bin" / "python"
            ).is_file()  # and the system's Python is, too
            needed = 0 if is_there else wheelhouse.installed_bytes
            return Runtime(None, wheelhouse, base, key, needed, vouched_by)
    raise NotSupportedError(f"{manifest.name}: {problems[0]}", hint=_hint(manifest, interpreter))


def has_unsigned_environment(layout: Layout, digest: str, manifest: Manifest) -> bool:
    """Whether a generation was given an environment although no key vouched for it.

    That this code may run was said then. An older edgephi, whose environments are called by the digest of
    their requirements, took it without a word.
    """
    folder = environment_of(layout, digest)
    names = {
        environment_key(wheelhouse.python, wheels_of(manifest, wheelhouse), UNSIGNED)
        for wheelhouse in manifest.wheels
    }
    requirements = {wheelhouse.requirements for wheelhouse in manifest.wheels}
    names |= {entry.sha256 for entry in manifest.files if entry.path in requirements}
    return folder is not None and folder.name in names


def _interpreters(layout: Layout, asked: str | None) -> Iterator[str]:
    """The Pythons of the device that may have edgephi."""
    if asked is not None:
        yield asked
        return
    own = base_interpreter() if _is_of_store(layout, sys.executable) else sys.executable
    if own:
        yield own
    on_path = shutil.which("python3")
    if on_path is None or _is_of_store(layout, on_path):
        return
    if Path(on_path).resolve() != Path(own).resolve():
        yield on_path


def _is_of_store(layout: Layout, interpreter: str) -> bool:
    """Whether a Python is that of an environment in this store, or in another.

    It is a link: where it leads says nothing.
    """
    if command_of_store(interpreter) is not None:
        return True
    folder = Path(os.path.realpath(Path(interpreter).parent))
    return folder.is_relative_to(os.path.realpath(layout.environments))


def _problem(interpreter: str, manifest: Manifest) -> str | None:
    """Why a Python cannot run the bundle; None when it can."""
    engine, provider = manifest.target.engine, manifest.target.provider
    try:
        done = run_child(
            [interpreter, "-P", "-c", _QUESTION, engine, provider],
            input=encode_manifest(manifest),
            capture_output=True,
            timeout=_SECONDS,
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
