"""How much memory a model may take here: the machine's own limit and that of its control groups."""

from pathlib import Path

from edgephi.errors import DoesNotFitError
from edgephi.manifest import ARTIFACT_FOLDER, Manifest

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def available_memory() -> int:
    """Bytes that this process can still take before the kernel kills something."""
    import psutil  # type: ignore[import-untyped]

    return min([int(psutil.virtual_memory().available), *_cgroup_rooms()])


def check_memory(manifest: Manifest, available: int) -> str | None:
    """Compare what the bundle needs with `available` bytes; a warning when it may not be enough.

    The manifest's number is a peak at the full context, which a short conversation never reaches: only
    weights that cannot be loaded at all are refused. Raises DoesNotFitError for those.
    """
    weights = sum(entry.size for entry in manifest.files if entry.path.startswith(f"{ARTIFACT_FOLDER}/"))
    if weights > available:
        raise DoesNotFitError(
            f"{manifest.name}: the weights need {_gigabytes(weights)} of memory, "
            f"{_gigabytes(available)} are available",
            hint="stop other programs, or build the model with fewer bits or a smaller one",
        )
    if manifest.requires.memory_bytes > available:
        return (
            f"{manifest.name} needs {_gigabytes(manifest.requires.memory_bytes)} of memory at its full "
            f"context of {manifest.limits.context} tokens, {_gigabytes(available)} are available"
        )
    return None


def _cgroup_rooms() -> list[int]:
    """Bytes left in each control group with a memory limit around this process; empty where there is none."""
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return []
    rooms: list[int | None] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        group = path.strip("/")
        if controllers == "":  # version 2: a limit may stand on any level above this process
            folders = [_CGROUPS / group, *(_CGROUPS / group).parents]
            rooms += [
                _room(folder, "memory.max", "memory.current")
                for folder in folders
                if folder.is_relative_to(_CGROUPS)
            ]
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            # In a container the group's path is the host's, and its files stand at the mount's root.
            rooms += [_room(folder, *files) for folder in (_CGROUPS / "memory" / group, _CGROUPS / "memory")]
    return [room for room in rooms if room is not None]


def _room(group: Path, limit_name: str, usage_name: str) -> int | None:
    """Bytes left below one group's limit; None when it has no limit. Cache that can be dropped is free."""
    try:
        limit = (group / limit_name).read_text().strip()
        usage = int((group / usage_name).read_text())
        statistics = (group / "memory.stat").read_text().split()
    except (OSError, ValueError):
        return None
    if not limit.isdecimal():  # "max"
        return None
    values = dict(zip(statistics[::2], statistics[1::2], strict=False))
    droppable = int(values.get("total_inactive_file", values.get("inactive_file", "0")))
    return max(0, int(limit) - usage + droppable)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
