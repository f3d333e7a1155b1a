"""A store with edgephi's commands on it, and a look at what lies in it that uses none of its code."""

import contextlib
import enum
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.store.faults.whole_environments import problem_of_environments

_MAIN = "from edgephi.cli.main import main; main()"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class BrokenStoreError(AssertionError):
    """The store holds something under a name that it does not deserve, or no active generation."""


class Phase(enum.Enum):
    """The last step of a flash of which the disk knows."""

    BEFORE = "before the first byte"
    FETCH = "fetch and verify"
    OBJECTS = "into objects"
    GENERATION = "build the generation"
    PROBE = "probe"
    TRIAL = "on trial, before the swap"
    SWAPPED = "on trial, swapped"
    COMMITTED = "committed"


@dataclass(frozen=True)
class Box:
    """The store in folder `root`. Its commands begin with the Python statements `first`, see `mutants`."""

    root: Path
    first: str = ""

    def command(self, name: str, *arguments: object) -> list[str]:
        """The command line of `edgephi NAME …` as a process of its own."""
        return [sys.executable, "-P", "-c", self.first + _MAIN, name, *map(str, arguments)]

    def flash_command(self, bundle: Path, *arguments: object) -> list[str]:
        """`edgephi flash` of a bundle into this store."""
        return self.command("flash", bundle, self.root, *arguments)

    def flash(self, bundle: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Flash a bundle; how it ended."""
        return ran(self.flash_command(bundle, *arguments))

    def on(self, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """`edgephi NAME ROOT …`: status, rollback, gc."""
        return ran(self.command(name, self.root, *arguments))

    def check(self) -> str:
        """The digest of the active generation. Raises BrokenStoreError unless all that has a name is whole.

        Objects and generations are hashed, whatever is active: a later flash trusts the ones, a roll-back the
        others. So is every environment. What lies in `parts` or has a name that begins with a dot may be
        unfinished.
        """
        for file in sorted((self.root / "objects" / "sha256").iterdir()):
            if not file.name.startswith(".") and _sha256(file) != file.name:
                raise BrokenStoreError(f"{file}: an object that is not what its name says")
        for generation in sorted((self.root / "gens").iterdir()):
            if not generation.name.startswith("."):
                check_generation(generation)
        for name in self._links():
            if not (self.root / name).is_dir():
                raise BrokenStoreError(f"{name} leads to {(self.root / name).readlink()}, which is not there")
        if not (self.root / "current").is_symlink():
            raise BrokenStoreError("there is no active generation")
        if problem := problem_of_environments(self.root):
            raise BrokenStoreError(problem)
        return self.active()

    def active(self) -> str:
        """The digest that the link `current` names, whole or not."""
        return (self.root / "current").readlink().name

    def settled(self) -> dict[str, str]:
        """All that a flash that was refused must leave as it was: generations in use, links and the state."""
        links = {name: str((self.root / name).readlink()) for name in self._links()}
        return {**links, "state": (self.root / "state.json").read_text()}

    def answer(self, prompt: str) -> subprocess.CompletedProcess[str]:
        """What the active bundle answers, as `edgephi run ROOT/current` does."""
        return ran(self.command("run", self.root / "current", prompt))

    def leftovers(self) -> list[str]:
        """What an unfinished flash leaves, and a finished one does not."""
        seen = [*self.root.iterdir(), *self.root.glob("gens/*"), *self.root.glob("parts/*")]
        seen += self.root.glob("envs/*")
        return sorted(
            path.relative_to(self.root).as_posix()
            for path in seen
            if path.name.startswith(".") or path.suffix == ".new" or path.parent.name == "parts"
        )

    def _links(self) -> list[str]:
        return [name for name in ("current", "previous") if (self.root / name).is_symlink()]

    def phase(self, bundle: Path) -> Phase:
        """How far the flash of a bundle had come, by what lies in the store."""
        digest = digest_of(bundle)
        try:
            on_trial = json.loads((self.root / "state.json").read_bytes())["trial"] is not None
        except (OSError, ValueError, KeyError):
            on_trial = False
        if self.active() == digest:
            return Phase.SWAPPED if on_trial else Phase.COMMITTED
        if on_trial:
            return Phase.TRIAL
        if (self.root / "gens" / digest).is_dir():
            return Phase.PROBE
        if any((self.root / "gens").glob(".*")):
            return Phase.GENERATION
        wanted = {entry["sha256"] for entry in json.loads((bundle / "bundle.json").read_bytes())["files"]}
        active = json.loads((self.root / "current" / "bundle.json").read_bytes())["files"]
        wanted -= {entry["sha256"] for entry in active}
        if wanted & {path.name for path in (self.root / "objects" / "sha256").iterdir()}:
            return Phase.OBJECTS
        return Phase.FETCH if any((self.root / "parts").iterdir()) else Phase.BEFORE


def check_generation(folder: Path) -> None:
    """Hold a generation against its name and its manifest. Raises BrokenStoreError."""
    manifest = folder / "bundle.json"
    if not manifest.is_file() or not _DIGEST.fullmatch(folder.name) or _sha256(manifest) != folder.name:
        raise BrokenStoreError(f"{folder}: no manifest of that digest in it")
    declared = {entry["path"]: entry["sha256"] for entry in json.loads(manifest.read_bytes())["files"]}
    found = {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in folder.rglob("*")
        if path.is_file() and path.parent / path.name not in (manifest, folder / "bundle.dsse.json")
    }
    for name in sorted(declared.keys() | found.keys()):
        if declared.get(name) != found.get(name):
            raise BrokenStoreError(
                f"{folder / name}: expected sha256 {declared.get(name)}, found {found.get(name)}"
            )


@contextlib.contextmanager
def store_like(box: Box, scratch: Path) -> Iterator[Box]:
    """A copy of a whole store in the folder `scratch`, links between its files kept; gone afterwards."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix="store-") as folder:
        copy = Path(folder) / "box"
        subprocess.run(["cp", "--archive", box.root, copy], check=True)
        yield Box(copy)


def digest_of(bundle: Path) -> str:
    """The name that the generation of a bundle has."""
    return _sha256(bundle / "bundle.json")


def environment() -> dict[str, str]:
    """The environment of every command: nothing that a run of Python would write of itself."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "2"}


def ran(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with `variables` added to its environment."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        stdin=subprocess.DEVNULL,
        env={**environment(), **variables},
    )


def must_succeed(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """The same, when it ended with 0. Raises BrokenStoreError with what it said."""
    if done.returncode:
        raise BrokenStoreError(f"{' '.join(done.args)}: ended with {done.returncode}: {done.stderr.strip()}")
    return done


def ends_well(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether a command did what it was asked for, or gave it up with one error and one hint."""
    lines = done.stderr.splitlines()
    said = [line for line in lines if line.startswith(("error: ", "hint: "))]
    well = [line.partition(":")[0] for line in said] == ["error", "hint"] and "bug in edgephi" not in said[0]
    return done.returncode == 0 or (
        done.returncode in range(2, 7) and well and "Traceback" not in done.stderr
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
