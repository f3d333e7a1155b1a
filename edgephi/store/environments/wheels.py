"""Unpack wheels into a Python environment, as the standard "Binary distribution format" describes it.

Every Python has `zipfile`; pip is a package of its own on Debian, and a box without a network cannot get it.
The wheels were resolved when the bundle was built. Each is held against the sha256 that the manifest seals
at the moment when it is opened, and every file is a new one: an entry never writes through a link, or into a
file that is there.
"""

import contextlib
import errno
import hashlib
import itertools
import os
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgephi.errors import BadBundleError

_BUFFER_BYTES = 1 << 20
_SCHEMES_IN_PACKAGES = ("purelib", "platlib")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_BLOCK_BYTES = 4096
# What reading an archive raises that is none, is damaged, or is made to confuse.
_NO_WHEEL = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(NotImplementedError, RuntimeError, EOFError, ValueError, OverflowError),
)
# What `zipfile` unpacks a piece at a time. A kilobyte of another method may take gigabytes of memory.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Python walks and removes folders by calling itself for each one below: none could be much deeper.
_DEEPEST = 64
_IN_THE_WAY = (FileExistsError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True)
class SealedWheel:
    """A wheel of a bundle, and the sha256 that its bytes have by the manifest."""

    file: Path
    sha256: str


@dataclass(frozen=True)
class _Open:
    """A wheel whose bytes are the sealed ones, and its files by where they go in the environment."""

    wheel: SealedWheel
    archive: zipfile.ZipFile
    entries: dict[PurePosixPath, zipfile.ZipInfo]


def make_environment(folder: Path, interpreter: str, version: str) -> Path:
    """Lay out an empty virtual environment (PEP 405) in the new folder `folder`. Returns its site-packages.

    `interpreter` is a Python that is in no environment itself, `version` such as "3.11".
    """
    packages = folder / _packages(version)
    packages.mkdir(parents=True)
    (folder / "bin").mkdir()
    for name in ("python", "python3"):
        (folder / "bin" / name).symlink_to(interpreter)
    home = Path(interpreter).parent
    (folder / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
    for path in (folder, *(path for path in folder.rglob("*") if not path.is_symlink())):
        path.chmod(0o755 if path.is_dir() else 0o644)  # whatever the umask
    return packages


def base_interpreter() -> str:
    """The Python that runs this, not that of a virtual environment but the one it was made from."""
    return getattr(sys, "_base_executable", None) or sys.executable


def unpack_wheels(
    wheels: Sequence[SealedWheel],
    environment: Path,
    version: str,
    *,
    check_room: Callable[[int], None],
    progress: Callable[[int], None],
) -> dict[str, str]:
    """Unpack wheels into an environment that `make_environment` has laid out; commands and headers are not.

    Before anything is written, `check_room` is told of the bytes on the disk that it will take. `progress` is
    told of bytes written. Returns the sha256 of each file by its path. Raises BadBundleError when one is not
    the wheel that was sealed, is no wheel, or would write outside the environment or over what is there.
    """
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(_opened(wheel, version)) for wheel in wheels]
        # The last wheel has the last word on a path that several have, as with pip.
        owners = {path: each for each in opened for path in each.entries}
        sizes = (each.entries[path].file_size for path, each in owners.items())
        blocks = sum(-(-size // _BLOCK_BYTES) + 1 for size in sizes) + _count_folders(owners)
        check_room(blocks * _BLOCK_BYTES)
        digests = {}
        for path, each in owners.items():
            entry = each.entries[path]
            digests[path.as_posix()] = _unpack(each, entry, environment, path)
            progress(entry.file_size)
        return digests


@contextlib.contextmanager
def _opened(wheel: SealedWheel, version: str) -> Iterator[_Open]:
    """Open a wheel, after its bytes were hashed: what is read then is what was hashed."""
    with wheel.file.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != wheel.sha256:
            raise BadBundleError(
                f"{wheel.file}: expected sha256 {wheel.sha256}, found {found}", hint="flash the bundle again"
            )
        file.seek(0)
        with _no_wheel(wheel):
            archive = zipfile.ZipFile(file)
        with archive:
            yield _Open(wheel, archive, _entries(wheel, archive, version))


def _entries(
    wheel: SealedWheel, archive: zipfile.ZipFile, version: str
) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files of a wheel by where they go. Raises BadBundleError when that is unclear or outside."""
    entries: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = _destination(entry.filename, version)
        if name is None or entry.is_dir():
            continue
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise _bad(wheel, f"found {entry.filename!r}, which leaves the folder")
        if len(path.parts) > _DEEPEST:
            raise _bad(wheel, f"found {entry.filename[:80]!r}…, which lies more than {_DEEPEST} folders deep")
        if entry.compress_type not in _METHODS:
            raise _bad(
                wheel,
                f"found {entry.filename[:80]!r} compressed by method {entry.compress_type}, not by deflate",
            )
        if path in entries:
            raise _bad(wheel, f"found {entry.filename!r} twice")
        entries[path] = entry
    return entries


def _count_folders(paths: Iterable[PurePosixPath]) -> int:
    """How many folders all of these lie in. Each takes a block, and a name of a few bytes has dozens."""
    before: tuple[str, ...] = ()
    count = 0
    for path in sorted(paths):
        folders = path.parts[:-1]
        shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(folders, before, strict=False))
        count += len(folders) - sum(1 for _ in shared)
        before = folders
    return count


def _destination(name: str, version: str) -> str | None:
    """Where a file of a wheel goes; None for what an environment without commands does not need."""
    top, _, rest = name.partition("/")
    packages = f"{_packages(version)}/"
    if not top.endswith(".data"):
        return name if name.startswith("/") else packages + name
    scheme, _, below = rest.partition("/")
    if scheme in _SCHEMES_IN_PACKAGES:
        return below if below.startswith("/") else packages + below
    return below if scheme == "data" else None


def _unpack(opened: _Open, entry: zipfile.ZipInfo, environment: Path, path: PurePosixPath) -> str:
    """Write one file of a wheel as a new one. Returns its sha256."""
    mode = 0o755 if entry.external_attr >> 16 & 0o111 else 0o644
    sha256 = hashlib.sha256()
    try:
        _make_parents(environment, path)
        descriptor = os.open(environment / path, _NEW_FILE, mode)
    except _IN_THE_WAY:
        raise _bad(opened.wheel, f"found {entry.filename!r}, where something else is") from None
    except OSError as cause:
        if cause.errno != errno.ENAMETOOLONG:
            raise
        raise _bad(opened.wheel, f"found {entry.filename[:80]!r}…, which is too long a name") from None
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        os.fchmod(descriptor, mode)  # whatever the umask
        with _no_wheel(opened.wheel), opened.archive.open(entry) as source:
            while data := source.read(_BUFFER_BYTES):
                sha256.update(data)
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
    return sha256.hexdigest()


def _make_parents(environment: Path, path: PurePosixPath) -> None:
    """Make the folders above a file. Raises FileExistsError when one of them is a link, or no folder."""
    for parent in reversed(path.parents[:-1]):
        folder = environment / parent
        try:
            folder.mkdir()
        except FileExistsError:
            if not stat.S_ISDIR(folder.lstat().st_mode):
                raise
        else:
            folder.chmod(0o755)


def _packages(version: str) -> str:
    return f"lib/python{version}/site-packages"


@contextlib.contextmanager
def _no_wheel(wheel: SealedWheel) -> Iterator[None]:
    """Say of a file that cannot be read as an archive that it is no wheel."""
    try:
        yield
    except _NO_WHEEL as cause:
        raise _bad(wheel, f"found {cause or type(cause).__name__}") from None
    except OSError as cause:
        if cause.errno != errno.EINVAL:  # a place before the file's beginning
            raise
        raise _bad(wheel, f"found {cause}") from None


def _bad(wheel: SealedWheel, found: str) -> BadBundleError:
    return BadBundleError(f"{wheel.file}: expected a wheel, {found}", hint="build the bundle again")
