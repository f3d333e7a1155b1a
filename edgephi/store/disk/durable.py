"""Changes that a power cut cannot undo or halve.

A file is whole on the disk before its name says so, and a name is on the disk before the next step relies
on it: `fsync` of the file, rename, `fsync` of the folder. An `fsync` that failed is never tried again: the
kernel forgets what it could not write, and would answer the second one with success.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

_NEW = ".new"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of <fcntl.h> and <stdio.h>


def sync(path: Path) -> None:
    """Have the disk hold what a file contains, or which names a folder contains."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def syncing_all(folder: Path) -> Iterator[Callable[[], None]]:
    """Gives what has the disk hold all that is written below `folder` meanwhile: one call for all files.

    It raises OSError when something of that could not be written, also while nobody asked. Where the system
    has no such call, nothing is said of that.
    """
    import ctypes

    descriptor = os.open(folder, os.O_RDONLY)  # the kernel tells of errors from here on

    def sync_all() -> None:
        library = ctypes.CDLL(None, use_errno=True)
        if not hasattr(library, "syncfs"):
            os.sync()
        elif library.syncfs(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))

    try:
        yield sync_all
    finally:
        os.close(descriptor)


def rename(source: Path, destination: Path) -> None:
    """Give a file or folder, whose content the disk holds, another name; a file that has it goes."""
    source.replace(destination)
    sync(destination.parent)
    if source.parent != destination.parent:
        sync(source.parent)


def replace_file(path: Path, data: bytes, *, mode: int = 0o644, new: Path | None = None) -> None:
    """Have the file at `path` hold `data`: at any moment it has its old content or the new, whole.

    It is written as `new` first, by default beside the old one; what dies then leaves that.
    """
    new = new or new_name(path)
    with _removed_on_error(new):
        write_file(new, data, mode=mode)
        rename(new, path)


def new_name(path: Path) -> Path:
    """Where the next content of a file or link is made."""
    return path.with_name(path.name + _NEW)


def write_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file, down to the disk; its name may still be lost until its folder is synced."""
    path.unlink(missing_ok=True)  # what is there may be a link into the objects
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        os.fchmod(descriptor, mode)  # whatever the umask: the runner may be another user
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_link(path: Path, target: str) -> None:
    """Have `path` be a symbolic link to `target`: at any moment it leads to its old target or to the new.

    A folder in its place goes, as one is that a copy has made of a link by following it.
    """
    new = new_name(path)
    if is_folder(new):  # one that was exchanged, by a process that died
        shutil.rmtree(new)
    new.unlink(missing_ok=True)
    with _removed_on_error(new):
        new.symlink_to(target)
        if not is_folder(path):
            rename(new, path)
        elif _exchanged(new, path):
            sync(path.parent)
            shutil.rmtree(new)
        else:
            shutil.rmtree(path)
            rename(new, path)


def is_folder(path: Path) -> bool:
    """Whether a folder is at `path`, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def remove_folder(path: Path, aside: Path) -> None:
    """Remove a folder: in one step first, by renaming it to `aside`, and then its files.

    In the lower layer of an overlay no folder can be renamed: there, its files go at once.
    """
    if aside.exists():
        shutil.rmtree(aside)
    try:
        rename(path, aside)
    except OSError as cause:
        if cause.errno != errno.EXDEV:
            raise
        aside = path
    shutil.rmtree(aside)
    sync(path.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Have two paths change their names, in one step; False where that cannot be."""
    try:
        import ctypes

        places = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
        return bool(ctypes.CDLL(None).renameat2(*places, _RENAME_EXCHANGE) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def remove(path: Path) -> None:
    """Remove a file or link, for good."""
    path.unlink(missing_ok=True)
    sync(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder that stays; nothing when it is there."""
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        path.chmod(0o755)
    sync(path.parent)


@contextlib.contextmanager
def _removed_on_error(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise
