"""A look at the environments of a store, without its own code: each that has a name is whole, and runs."""

import hashlib
import json
import re
import subprocess
import zipfile
from pathlib import Path

_DIGEST = re.compile(r"[0-9a-f]{64}")


def problem_of_environments(root: Path) -> str:
    """What is wrong with the environments of a store; "" when nothing is.

    Each holds what its own record says, and what the wheels of the generations hold that are linked to it. A
    generation that carries wheels has one, and the command that users run answers as the active one does.
    """
    folder = root / "envs"
    if not folder.is_dir():
        return ""
    for environment in sorted(folder.iterdir()):
        if _DIGEST.fullmatch(environment.name) and (problem := _problem_by_record(environment)):
            return problem
    for generation in sorted((root / "gens").iterdir()):
        link = folder / "of" / generation.name
        if link.is_symlink() and (problem := _problem_by_wheels(link.resolve(), generation)):
            return problem
    active = (root / "current").resolve()
    if not (active / "wheels").is_dir():
        return ""
    if not (folder / "of" / active.name).is_symlink():
        return f"{active}: the active generation has no environment"
    done = subprocess.run(
        [folder / "edgephi", "run", root / "current", "hello"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
        timeout=60,
    )
    if done.returncode:
        return f"{folder / 'edgephi'}: ended with {done.returncode}: {done.stderr}"
    return ""


def _problem_by_record(environment: Path) -> str:
    try:
        declared = json.loads((environment / "environment.json").read_bytes())["files"]
    except (OSError, ValueError, KeyError) as cause:
        return f"{environment}: no record in it: {cause!r}"
    for name, sha256 in declared.items():
        found = _sha256(environment / name)
        if found != sha256:
            return f"{environment / name}: expected sha256 {sha256}, found {found}"
    return ""


def _problem_by_wheels(environment: Path, generation: Path) -> str:
    packages = next(environment.glob("lib/python*/site-packages"), environment)
    for wheel in sorted(generation.glob("wheels/*/*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                found = _sha256(packages / name)
                if found != hashlib.sha256(archive.read(name)).hexdigest():
                    return f"{packages / name}: not what {wheel} holds"
    return ""


def _sha256(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as cause:
        return str(cause)
