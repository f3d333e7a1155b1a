"""Hold the files of a bundle against its manifest, before anything opens them."""

import os
import platform
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Never

from edgephi.bundle.chunks import FileEntry
from edgephi.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAMES, Manifest
from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError, NotSupportedError

_BUFFER_BYTES = 1 << 20


def check_files(
    bundle: Path,
    manifest: Manifest,
    *,
    quick: bool = False,
    progress: Callable[[int], None] | None = None,
    entries: Iterable[FileEntry] | None = None,
) -> None:
    """Check that the folder `bundle` holds exactly the files of `manifest`, or those of `entries`, unchanged.

    Every file must be there as a plain file of the right size and sha256, and nothing else may be there but
    signatures. Those are not looked into: see `edgephi.store.trust.authenticate`.
    `quick` leaves the hashes out, so it costs no reading. `progress` is told the number of bytes hashed
    since it was last told. Raises BadBundleError that names the first file that is wrong.
    """
    files = tuple(manifest.files if entries is None else entries)
    declared = {entry.path: entry for entry in files}
    found = _plain_files(bundle, folders=_parents(declared))
    for path in sorted(declared.keys() - found.keys()):
        _refuse(bundle, path, f"expected a file of {declared[path].size} bytes, found none")
    for path in sorted(found.keys() - declared.keys() - {MANIFEST_NAME} - SIGNATURE_NAMES):
        _refuse(bundle, path, "expected only the files of the manifest, found this one too")
    for path, entry in sorted(declared.items()):
        if found[path] != entry.size:
            _refuse(bundle, path, f"expected {entry.size} bytes, found {found[path]}")
    if quick:
        return
    for entry in files:
        sha256 = _hash(bundle, entry, progress)
        if sha256 != entry.sha256:
            _refuse(bundle, entry.path, f"expected sha256 {entry.sha256}, found {sha256}")


def check_architecture(manifest: Manifest) -> None:
    """Raise NotSupportedError when the bundle was made for processors of another kind."""
    here = platform.machine()
    if here not in manifest.target.arch:
        raise NotSupportedError(
            f"{manifest.name}: made for {', '.join(manifest.target.arch)}, this machine is {here}",
            hint=f"build the model for this machine: `{edgephi_command('targets')}` lists them",
        )


def _parents(paths: dict[str, FileEntry]) -> set[str]:
    """Every folder that a bundle with the files `paths` must have."""
    return {path[:i] for path in paths for i, letter in enumerate(path) if letter == "/"}


def _plain_files(bundle: Path, folders: set[str]) -> dict[str, int]:
    """Size of every file below `bundle`, by its path as a manifest writes it.

    Nothing is followed: a link could lead out of the bundle, and what it leads to could change later.
    """
    sizes: dict[str, int] = {}
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(bundle / folder), key=lambda entry: entry.name)
        except OSError as cause:
            _refuse(bundle, folder, f"expected a folder, found {cause.strerror}")
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            facts = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(facts.st_mode):
                sizes[path] = facts.st_size
            elif stat.S_ISLNK(facts.st_mode):
                link = os.readlink(entry.path)  # noqa: PTH115 - the text of the link, not a path to follow
                _refuse(bundle, path, f"expected a plain file, found a symbolic link to {link}")
            elif not stat.S_ISDIR(facts.st_mode):
                _refuse(bundle, path, "expected a plain file, found a device, pipe or socket")
            elif path in folders:
                waiting.append(path)
            else:
                _refuse(bundle, path, "expected only the files of the manifest, found this folder too")
    return sizes


def _hash(bundle: Path, entry: FileEntry, progress: Callable[[int], None] | None) -> str:
    """The sha256 of one file, read a buffer at a time."""
    import hashlib  # brings in OpenSSL: not for those who only look at sizes

    sha256 = hashlib.sha256()
    buffer = bytearray(_BUFFER_BYTES)
    view = memoryview(buffer)
    try:
        with (bundle / entry.path).open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                sha256.update(view[:count])
                if progress is not None:
                    progress(count)
    except OSError as cause:
        _refuse(bundle, entry.path, f"expected a readable file, found {cause.strerror}")
    return sha256.hexdigest()


def _refuse(bundle: Path, path: str, problem: str) -> Never:
    raise BadBundleError(f"{bundle / path}: {problem}", hint="copy the bundle again, or build it again")
