"""An ext4 file system in a file, made out of a folder: no root needed, and the same bytes every time.

e2fsprogs does it: `mke2fs -d` copies the folder in, in the order of the names, and `debugfs` then writes
owner and times of every inode, which `mke2fs` takes from the folder. All that its configuration or version
could decide differently is said here. The features are those that kernels since Linux 4.4 write.
"""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from edgephi.commands import shell_command
from edgephi.errors import DoesNotFitError, NotSupportedError
from edgephi.processes.child_process import run_child

BLOCK_BYTES = 4096

_FEATURES = (
    "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,"
    "dir_nlink,extra_isize,metadata_csum,resize_inode"
)
# Named, and empty, so that what a distribution writes into /etc/mke2fs.conf does not count.
_TYPES = ("ext4", "floppy", "small", "big", "huge")
_CONFIGURATION = "[fs_types]\n" + "".join(f"\t{name} = {{\n\t}}\n" for name in _TYPES)
_FEWEST_INODES = 2048
_FIRST_FREE_INODE = 11
_ROOT_INODE = 2
_TIMES = ("atime", "ctime", "mtime", "crtime")
_PLACES = "/usr/sbin:/sbin"  # not in everybody's PATH


@dataclass(frozen=True)
class FileSystem:
    """What to make: `size` bytes, a whole number of blocks, for about `files` files.

    `identity` becomes its UUID and the seed of its hashed folders, `time` (seconds since 1970) that of all
    its files.
    """

    size: int
    files: int
    identity: UUID
    time: int
    label: str


def free_bytes(file_system: FileSystem) -> int:
    """The bytes for files in such a file system, empty. Raises NotSupportedError when there can be none."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "empty"
        made = _mke2fs(file_system, image)
        if made.returncode != 0:
            raise _unable("make a file system", made)
        return _facts(image)["Free blocks"] * BLOCK_BYTES


def make_ext4(file_system: FileSystem, folder: Path, image: Path) -> int:
    """Write `image`, a sparse file, with all that is in `folder`; returns the bytes that are left free.

    Raises DoesNotFitError when it does not fit, and NotSupportedError without e2fsprogs.
    """
    made = _mke2fs(file_system, image, "-d", str(folder))
    if made.returncode != 0:
        raise DoesNotFitError(
            f"{image.name}: expected that mke2fs can write {file_system.size} bytes, found {_reason(made)}",
            hint="give a larger --size, or free some space",
        )
    _make_constant(file_system, image)
    checked = _run(["e2fsck", "-f", "-n", str(image)], file_system)
    if checked.returncode != 0:
        raise _unable("check what it has made", checked)
    return _facts(image)["Free blocks"] * BLOCK_BYTES


def _mke2fs(file_system: FileSystem, image: Path, *more: str) -> "subprocess.CompletedProcess[bytes]":
    with image.open("wb") as file:
        file.truncate(file_system.size)
    inodes = max(_FEWEST_INODES, 16 * file_system.files)
    identity = str(file_system.identity)
    # A fresh sparse file is all zeros, so its tables need not be written.
    extended = f"hash_seed={identity},root_owner=0:0,assume_storage_prezeroed=1,no_copy_xattrs"
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-O", _FEATURES, "-b", str(BLOCK_BYTES), "-I", "256"]
    command += ["-N", str(inodes), "-J", f"size={_journal_mebibytes(file_system.size)}", "-m", "0"]
    command += [
        "-U",
        identity,
        "-L",
        file_system.label,
        "-e",
        "remount-ro",
        "-E",
        extended,
        *more,
        str(image),
    ]
    return _run(command, file_system)


def _journal_mebibytes(size: int) -> int:
    """The smallest journal that the kernel takes, for small partitions; what mke2fs takes for larger ones."""
    return 4 if size < 1 << 27 else 16 if size < 1 << 30 else 64


def _make_constant(file_system: FileSystem, image: Path) -> None:
    """Have every inode belong to root and be as old as the file system."""
    facts = _facts(image)
    last = facts["Inode count"] - facts["Free inodes"]
    fields = [(name, f"@{file_system.time}") for name in _TIMES]
    fields += [(f"{name}_extra", "0") for name in _TIMES] + [("uid", "0"), ("gid", "0")]
    script = "".join(
        f"set_inode_field <{inode}> {name} {value}\n"
        for inode in (_ROOT_INODE, *range(_FIRST_FREE_INODE, last + 1))
        for name, value in fields
    )
    changed = _run(["debugfs", "-w", "-f", "-", str(image)], file_system, script.encode())
    # It says on standard error what it could not do, below a line with its version, and by nothing else.
    if changed.returncode != 0 or len(changed.stderr.splitlines()) > 1:
        raise _unable("set times", changed)


def _facts(image: Path) -> dict[str, int]:
    """The numbers that the superblock of an image states, by their names in `dumpe2fs -h`."""
    said = _run(["dumpe2fs", "-h", str(image)], None).stdout.decode(errors="replace")
    return {
        name: int(value) for name, value in re.findall(r"^([A-Z][A-Za-z ]+): +(\d+)$", said, re.MULTILINE)
    }


def _run(
    command: list[str], file_system: FileSystem | None, said: bytes | None = None
) -> "subprocess.CompletedProcess[bytes]":
    program = shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:{_PLACES}")
    if program is None:
        raise NotSupportedError(
            f"{command[0]}: expected e2fsprogs, which makes file systems, found none",
            hint=shell_command("apt", "install", "e2fsprogs"),
        )
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as configuration:
        configuration.write(_CONFIGURATION)
        configuration.flush()
        environment = {**os.environ, "LC_ALL": "C", "MKE2FS_CONFIG": configuration.name}
        environment.pop("SOURCE_DATE_EPOCH", None)  # newer versions take it for a limit of their own
        if file_system is not None:
            environment["E2FSPROGS_FAKE_TIME"] = str(file_system.time)
        return run_child(
            [program, *command[1:]],
            input=said,
            stdin=subprocess.DEVNULL if said is None else None,
            capture_output=True,
            env=environment,
        )


def _unable(what: str, done: "subprocess.CompletedProcess[bytes]") -> NotSupportedError:
    return NotSupportedError(
        f"expected that e2fsprogs can {what}, found {_reason(done)}",
        hint="update e2fsprogs: 1.47.0 is known to work",
    )


def _reason(done: "subprocess.CompletedProcess[bytes]") -> str:
    lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {done.returncode}"
