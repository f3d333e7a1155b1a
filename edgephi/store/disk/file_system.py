"""Whether a file system can hold a store: it needs links, names replaced at once, and a sync of folders."""

import errno
import shutil

from edgephi.errors import NotSupportedError
from edgephi.store.disk.durable import rename, sync
from edgephi.store.disk.layout import Layout

# What kernels say where a file system knows no such thing: FAT and exFAT EPERM, FUSE ENOSYS, CIFS EINVAL.
_NOT_KNOWN = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


def check_file_system(layout: Layout) -> None:
    """Raise NotSupportedError where there are no links, such as on the FAT of a new USB stick.

    For whoever holds the lock. A store that has a state was checked when it was made. Nothing is left of what
    is tried.
    """
    if layout.state.exists():
        return
    tried = layout.tried
    try:
        shutil.rmtree(tried, ignore_errors=True)  # by a process that died
        tried.mkdir()
        _try(layout)
    except OSError as cause:
        if cause.errno not in _NOT_KNOWN:
            raise
        raise NotSupportedError(
            f"{layout.root}: expected a file system with hard and symbolic links, found one without",
            hint="put the store on ext4, btrfs, xfs or f2fs: format the disk anew, or choose another; "
            "image:FILE writes a partition that only has to be copied",
        ) from None
    finally:
        shutil.rmtree(tried, ignore_errors=True)


def _try(layout: Layout) -> None:
    """Do once what a store does all the time. Raises OSError."""
    file, hard_link, link, renamed = (layout.tried / name for name in ("file", "hard", "symbolic", "renamed"))
    for path in (file, renamed):
        path.write_bytes(b"edgephi")
    hard_link.hardlink_to(file)
    link.symlink_to(file.name)
    rename(hard_link, renamed)
    sync(layout.tried)
