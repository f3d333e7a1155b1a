"""What must stay free of a store's disk, and whether something more fits beside it."""

import os

from edgephi.commands import edgephi_command
from edgephi.errors import DoesNotFitError
from edgephi.store.disk.layout import Layout

# A disk that is full to the last byte breaks whatever else runs on the device.
_RESERVE_SHARE = 0.03
_LARGEST_RESERVE_BYTES = 1 << 30


def reserve_bytes(disk_bytes: int) -> int:
    """What stays free of a disk of that size."""
    return min(int(_RESERVE_SHARE * disk_bytes), _LARGEST_RESERVE_BYTES)


def check_free_disk(layout: Layout, needed: int, *, what: str = "") -> None:
    """Raise DoesNotFitError unless `needed` bytes more fit, and leave the disk a reserve.

    `what` says in a few words what takes them, where that is not the whole bundle.
    """
    place = layout.root if layout.root.is_dir() else layout.root.absolute().parent
    disk = os.statvfs(place)
    free, reserve = disk.f_bavail * disk.f_frsize, reserve_bytes(disk.f_blocks * disk.f_frsize)
    if needed + reserve > free:
        use = f" for {what}" if what else ""
        raise DoesNotFitError(
            f"{layout.root}: needs {needed / 1e6:,.1f} MB of disk{use} and a reserve of "
            f"{reserve / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free",
            hint=f"free some space; `{edgephi_command('gc', layout.root)}` "
            "removes what no generation in use needs",
        )
