"""What an environment was made of and holds, written into it when it was made: `environment.json`.

The name of its folder is a digest over its wheels by their bytes, and over who vouched for them. So a bundle
with other wheels, or the same wheels in a bundle that somebody else signed or nobody did, never gets it.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.manifest import Manifest, Wheelhouse
from edgephi.errors import BadInputError
from edgephi.records import read_record, write_record
from edgephi.store.disk.durable import write_file
from edgephi.store.disk.hashing import files_sha256, forget_cached

RECORD_NAME = "environment.json"
UNSIGNED = "unsigned"
"""Stands for the fingerprint of a key where none vouches for the wheels."""

SCHEMA = "edgephi.environment/1"
_CHECKSUM = "checksum"
_CACHES = "__pycache__"


@dataclass(frozen=True)
class EnvironmentRecord:
    """`wheels` and `files` have the sha256 of each, `links` where each leads.

    `vouched_by` is the fingerprint of the key that signed the bundle of the wheels, or `UNSIGNED`.
    """

    schema: str
    vouched_by: str
    python: str
    wheels: Mapping[str, str]
    links: Mapping[str, str]
    files: Mapping[str, str]


def wheels_of(manifest: Manifest, wheelhouse: Wheelhouse) -> dict[str, str]:
    """The sha256 of each wheel of a wheelhouse, by its name."""
    folder = f"{wheelhouse.folder}/"
    names = {
        entry.path.removeprefix(folder): entry for entry in manifest.files if entry.path.startswith(folder)
    }
    return {
        name: entry.sha256
        for name, entry in sorted(names.items())
        if name.endswith(".whl") and "/" not in name
    }


def environment_key(python: str, wheels: Mapping[str, str], vouched_by: str) -> str:
    """The name of the environment of these wheels, for a Python such as "3.11"."""
    lines = [vouched_by, python, *(f"{sha256} {name}" for name, sha256 in sorted(wheels.items()))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_environment_record(
    folder: Path, *, vouched_by: str, python: str, wheels: Mapping[str, str], files: Mapping[str, str]
) -> None:
    """Note what an environment holds: `files` came from its wheels, all else was laid out before them."""
    found = {path.as_posix(): is_link for path, is_link in _found(folder)}
    laid_out = found.keys() - files.keys() - {RECORD_NAME}
    own = {name: folder / name for name in sorted(laid_out) if not found[name]}
    digests = files_sha256(own.values(), lambda _size: None)
    links = {name: _target(folder / name) for name, is_link in found.items() if is_link}
    record = EnvironmentRecord(
        SCHEMA,
        vouched_by,
        python,
        dict(wheels),
        links,
        {**{name: digests[path] for name, path in own.items()}, **files},
    )
    plain = write_record(record)
    plain[_CHECKSUM] = _checksum(plain)
    write_file(folder / RECORD_NAME, (json.dumps(plain, indent=1) + "\n").encode())


def read_environment_record(folder: Path) -> EnvironmentRecord | None:
    """What an environment holds; None when that is not known: an older edgephi made it, or it is damaged."""
    try:
        plain = json.loads((folder / RECORD_NAME).read_bytes())
        if not isinstance(plain, dict) or plain.pop(_CHECKSUM, None) != _checksum(plain):
            return None
        record = read_record(EnvironmentRecord, plain, where=str(folder), error=BadInputError, hint="")
    except (OSError, ValueError, RecursionError, BadInputError):
        return None
    is_named = environment_key(record.python, record.wheels, record.vouched_by) == folder.name
    return record if is_named and record.schema == SCHEMA else None


def changes_in(
    folder: Path, *, from_disk: bool = False, progress: Callable[[int], None] = lambda _size: None
) -> tuple[str, ...]:
    """The paths in an environment that are not as they were made: changed, gone or new; none if it is whole.

    Bytecode that Python itself keeps beside a module is not looked at. Without a record it is that which is
    missing. `from_disk`: past the kernel's cache.
    """
    record = read_environment_record(folder)
    if record is None:
        return (RECORD_NAME,)
    found = dict(_found(folder))
    links = {path.as_posix() for path, is_link in found.items() if is_link}
    files = {path.as_posix(): folder / path for path, is_link in found.items() if not is_link}
    wrong = {name for name in links if record.links.get(name) != _target(folder / name)}
    wrong |= record.links.keys() - links
    wrong |= {name for name in record.links if not (folder / name).is_file()}  # the system's Python is gone
    wrong |= record.files.keys() - files.keys()
    wrong |= {name for name in files if name not in record.files and not _is_cache(name)} - {RECORD_NAME}
    known = {name: files[name] for name in record.files if name in files}
    if from_disk:
        for path in known.values():
            forget_cached(path)
    digests = files_sha256(known.values(), progress)
    wrong |= {name for name, path in known.items() if digests[path] != record.files[name]}
    return tuple(sorted(wrong))


def size_of(folder: Path) -> int:
    """The bytes of all files in an environment."""
    return sum((folder / path).lstat().st_size for path, _ in _found(folder))


def _found(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Everything in an environment that is no folder, by its path in it, and whether it is a link."""
    for place, folders, names in os.walk(folder):
        for name in (*names, *folders):
            path = Path(place, name)
            mode = path.lstat().st_mode
            if not stat.S_ISDIR(mode):
                yield path.relative_to(folder), not stat.S_ISREG(mode)


def _target(path: Path) -> str:
    """Where a link leads; "" for what is neither a file nor a link, such as a pipe."""
    try:
        return os.readlink(path)  # noqa: PTH115 - the text of the link
    except OSError:
        return ""


def _is_cache(name: str) -> bool:
    *_, folder, file = ("", *name.split("/"))
    return folder == _CACHES and file.endswith(".pyc")


def _checksum(plain: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
