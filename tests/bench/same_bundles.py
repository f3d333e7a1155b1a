"""Whether another commit builds the same bundles as this one, byte for byte.

The demo and a tiny checkpoint of each shape are built for every target by both, each from its own sources,
under the same command line and the same moment (SOURCE_DATE_EPOCH). Ends with 1 when anything differs: a
file, or a value of `bundle.json`, which is named by its path. What may differ is said with `--but`.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tests.bench.measure import report
from tests.tiny_checkpoint import SHAPES, write_tiny_checkpoint

ROOT = Path(__file__).parents[2]
_MANIFEST = "bundle.json"
_FOLLOWS = ("files[[]*", "provenance.edgephi")  # from other files, and from the version, each told by itself


@dataclass(frozen=True)
class Result:
    """How one build ended: the last line of its error, or its folder."""

    folder: Path
    problem: str


def main() -> None:
    """Build twice, compare, print a table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("commit", help="the other commit")
    arguments.add_argument("--targets", help="with commas; all of this commit by default")
    arguments.add_argument("--models", default=",".join(["demo", *SHAPES]), help="with commas")
    arguments.add_argument("--verify", default="off", help="of the demo: its certificate is compared too")
    arguments.add_argument("--but", action="append", default=[], help="a path in bundle.json, as a pattern")
    options = arguments.parse_args()
    targets = options.targets.split(",") if options.targets else _targets()
    rows, differs = [], False
    with tempfile.TemporaryDirectory() as name, _sources(options.commit) as other:
        models = _models(Path(name), options.models.split(","))
        for model, path in models.items():
            for target in targets:
                verify = options.verify if model == "demo" else "off"
                theirs = _build(other, Path(name) / "theirs", path, target, verify)
                ours = _build(ROOT, Path(name) / "ours", path, target, verify)
                found = _compare(theirs, ours, options.but)
                differs |= bool(found)
                rows.append((model, target, "; ".join(found) or "the same"))
                print(*rows[-1], sep="\t", file=sys.stderr, flush=True)
    report(("model", "target", f"beside {options.commit}"), rows)
    sys.exit(differs)


def _targets() -> list[str]:
    return sorted(path.stem for path in (ROOT / "targets").glob("*.toml"))


def _models(scratch: Path, names: Sequence[str]) -> dict[str, str]:
    """What to build, by name: "demo", or the folder of a tiny checkpoint that is written here."""
    return {
        name: "demo" if name == "demo" else str(write_tiny_checkpoint(scratch / f"tiny-{name}", name))
        for name in names
    }


@contextlib.contextmanager
def _sources(commit: str) -> Iterator[Path]:
    """The tree of a commit, in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        archive = subprocess.run(["git", "-C", ROOT, "archive", commit], check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", name], input=archive.stdout, check=True)
        yield Path(name)


def _build(sources: Path, work: Path, model: str, target: str, verify: str) -> Result:
    """Build in `work`, so that the command lines of both are the same."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    command = [sys.executable, "-P", "-m", "edgephi.cli", "build", model, "--target", target, "-o", "bundle"]
    done = subprocess.run(
        [*command, "--verify", verify],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(sources), "SOURCE_DATE_EPOCH": "1700000000"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.strip().splitlines() or [""]
    return Result(work / "bundle", lines[-1] if done.returncode else "")


def _compare(theirs: Result, ours: Result, allowed: Sequence[str]) -> list[str]:
    """What differs, in a few words each; two builds that are refused in the same words are the same."""
    if theirs.problem or ours.problem:
        return [] if theirs.problem == ours.problem else [f"{theirs.problem!r}, {ours.problem!r}"]
    names = sorted(
        {
            path.relative_to(each.folder).as_posix()
            for each in (theirs, ours)
            for path in each.folder.rglob("*")
            if path.is_file()
        }
    )
    found = [
        name
        for name in names
        if name != _MANIFEST and _bytes(theirs.folder / name) != _bytes(ours.folder / name)
    ]
    values = [_flat(json.loads((each.folder / _MANIFEST).read_bytes())) for each in (theirs, ours)]
    for path in sorted({*values[0], *values[1]}):
        before, after = (value.get(path) for value in values)
        if before != after and not any(fnmatch(path, pattern) for pattern in (*_FOLLOWS, *allowed)):
            found.append(f"{path}: {before} -> {after}")
    return found


def _bytes(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """All values of a document by their paths, such as `requires.memory_bytes` and `files[0].size`."""
    inner: Mapping[str, Any]
    if isinstance(value, dict):
        inner = {f"{path}.{key}" if path else key: each for key, each in value.items()}
    elif isinstance(value, list):
        inner = {f"{path}[{place}]": each for place, each in enumerate(value)}
    else:
        return {path: value}
    return {name: each for key, found in inner.items() for name, each in _flat(found, key).items()}


if __name__ == "__main__":
    main()
