"""Disks to break: real file systems on loop devices, one of which can be copied while it is written.

All of it needs root. `missing` says what a machine lacks, so that a test can skip with that as its reason.
"""

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

EXT4_BYTES = 64 << 20
_BTRFS_BYTES = 3 << 30  # sparse: copies share what they have in common


def missing(*needed: str) -> str | None:
    """What hinders a machine of destruction that needs these programs and devices; None: nothing.

    Who makes file systems has to mount them; a container may forbid that to root, and strace to look.
    """
    for name in needed:
        if not Path(name).exists() and shutil.which(name) is None:
            return f"needs {name}, which is not here"
    if any(name.startswith("mk") for name in needed) and (reason := _why_not_mount()):
        return f"needs to mount file systems: {reason}"
    if "strace" in needed and (reason := _why_not("strace", "-o", os.devnull, "true")):
        return f"needs strace to work: {reason}"
    return None


@functools.cache
def _why_not_mount() -> str | None:
    if os.geteuid():
        return "only root may"
    with tempfile.TemporaryDirectory() as folder:
        if reason := _why_not("mount", "-t", "tmpfs", "tmpfs", folder):
            return reason
        _unmount(Path(folder))
    return _why_not("losetup", "--find")


@functools.cache
def _why_not(*command: str) -> str | None:
    """Why a command does not work here; None: it does."""
    try:
        run(*command)
    except (RuntimeError, OSError) as cause:
        return str(cause)
    return None


def run(*command: object) -> str:
    """Run a program; what it printed. Raises CalledProcessError with what it said."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.returncode}: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def mounted(image: Path, *options: str, beside: Path | None = None) -> Iterator[Path]:
    """The file system in the file `image`, mounted through a loop device; its journal is replayed.

    Its folder lies in `beside`, or else where the image is.
    """
    folder = (beside or image.parent) / f"{image.name}.mounted"
    folder.mkdir(exist_ok=True)
    run("mount", "-o", ",".join(("loop", *options)), image, folder)
    try:
        yield folder
    finally:
        _unmount(folder)
        folder.rmdir()


def make_ext4(image: Path, size: int = EXT4_BYTES) -> Path:
    """An empty ext4 in a sparse file of `size` bytes."""
    with image.open("wb") as file:
        file.truncate(size)
    format_ext4(image)
    return image


def format_ext4(drive: Path) -> None:
    """Make an empty ext4 on a drive, as an installer would."""
    run("mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", drive)


@contextlib.contextmanager
def memory_disk(folder: Path, size: str) -> Iterator[Path]:
    """An empty tmpfs of a size such as "20m" at `folder`."""
    folder.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    try:
        yield folder
    finally:
        _unmount(folder)


@dataclass(frozen=True)
class CopiedDisk:
    """An ext4 whose image lies on btrfs: `copy` takes what the device holds at one instant, and nothing more.

    What ext4 has only in memory is not in a copy: that is what a power cut loses.
    """

    folder: Path
    image: Path
    path: Path

    def copy(self, name: str) -> Path:
        """The image as it is now. The file system is neither told nor synced."""
        copied = self.folder / name
        run("cp", "--reflink=always", self.image, copied)
        return copied


@contextlib.contextmanager
def copied_disk(scratch: Path) -> Iterator[CopiedDisk]:
    """Such a disk, mounted and empty, in the folder `scratch`."""
    outer = scratch / "btrfs.img"
    with outer.open("wb") as file:
        file.truncate(_BTRFS_BYTES)
    run("mkfs.btrfs", "-q", "-f", outer)
    try:
        with mounted(outer) as folder:
            image = make_ext4(folder / "disk.img")
            with mounted(image) as path:
                yield CopiedDisk(folder, image, path)
    finally:
        outer.unlink()


def _unmount(folder: Path) -> None:
    if subprocess.run(["umount", str(folder)], check=False, capture_output=True).returncode:
        run("umount", "-l", folder)


def fill(disk: Path) -> Path:
    """Write a file that leaves no room on a disk."""
    file = disk / "filler"
    with file.open("wb", buffering=0) as filler:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    filler.write(bytes(size))
    return file
