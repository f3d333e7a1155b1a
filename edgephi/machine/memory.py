"""How much memory a model may take here: the machine's own limit and that of its control groups."""

from pathlib import Path
from typing import NamedTuple

from edgephi.bundle.manifest import ARTIFACT_FOLDER, Manifest
from edgephi.engines.facts.registry import facts_of, known_engines
from edgephi.errors import DoesNotFitError

_SMALLEST_CONTEXT = 256  # tokens; with less no chat template leaves room for an answer
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


class _Names(NamedTuple):
    """What the two versions of control groups call the same: files of a group, and lines of memory.stat."""

    limit: str
    usage: str
    files_read: tuple[str, str]
    files_mapped: str


_VERSION_1 = _Names(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
    "total_mapped_file",
)
_VERSION_2 = _Names("memory.max", "memory.current", ("inactive_file", "active_file"), "file_mapped")
_MEMINFO = Path("/proc/meminfo")


def available_memory() -> int:
    """Bytes that this process can still take before the kernel kills something."""
    return min([_machine_room(), *_cgroup_rooms()])


def available_to(engine: str, provider: str) -> int:
    """Bytes that this process can still take where an engine on a provider keeps its data.

    A GPU without memory of its own, or whose driver does not tell, takes the machine's.
    """
    if facts_of(engine).provider(provider).own_memory:
        from edgephi.machine.accelerators import find_accelerators

        free = [gpu.free_bytes for gpu in find_accelerators() if gpu.free_bytes is not None]
        if free:
            return sum(free)
    return available_memory()


def loaded_bytes(manifest: Manifest) -> int:
    """Size of the engine's files that are loaded: binaries, say, but not the graphs to compile them again."""
    facts = known_engines().get(manifest.target.engine)
    unloaded = tuple(f"{ARTIFACT_FOLDER}/{name}/" for name in (facts.unloaded_folders if facts else ()))
    return sum(
        entry.size
        for entry in manifest.files
        if entry.path.startswith(f"{ARTIFACT_FOLDER}/") and not entry.path.startswith(unloaded)
    )


def check_memory(manifest: Manifest, available: int, context: int | None = None) -> tuple[int, str | None]:
    """The context that fits into `available` bytes, and a warning when it is less than the bundle's own.

    `context` was asked for; None asks for all that the bundle serves and takes what fits. Raises
    DoesNotFitError when the weights, or a context that was asked for, do not fit.
    """
    weights = loaded_bytes(manifest)
    if weights > available:
        raise DoesNotFitError(
            f"{manifest.name}: the weights need {_gigabytes(weights)} of memory, "
            f"{_gigabytes(available)} are available",
            hint="stop other programs, or build the model with fewer bits or a smaller one",
        )
    full, per_token = manifest.limits.context, manifest.requires.memory_per_token_bytes
    if context is not None and context > full:
        raise DoesNotFitError(
            f"{manifest.name}: expected a context of at most {full} tokens, found {context}",
            hint="build the bundle again with a larger --context",
        )
    asked = context or full
    need = manifest.memory_at(asked)
    if need <= available:
        return asked, None
    # What is needed is a peak that a short conversation never reaches; some of it can always be used.
    held = min(asked, manifest.requires.cached_tokens or asked)  # all of them take memory
    fitting = held - -(-(need - available) // per_token) if per_token else asked
    if context is not None and fitting < context:
        advised = fitting * 15 // 16  # what is available will have changed a little by then
        raise DoesNotFitError(
            f"{manifest.name}: a context of {context} tokens needs {_gigabytes(need)} of memory, "
            f"{_gigabytes(available)} are available",
            hint=f"--context {advised} fits" if advised >= _SMALLEST_CONTEXT else "stop other programs",
        )
    served = max(fitting, min(asked, _SMALLEST_CONTEXT))
    return served, (
        f"{manifest.name} needs {_gigabytes(need)} of memory at its full context of {full} tokens, "
        f"{_gigabytes(available)} are available: it serves {served} tokens"
    )


def _machine_room() -> int:
    """Bytes that the kernel can still give to anybody. Linux tells it by itself, also where no psutil is."""
    try:
        for line in _MEMINFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) << 10
    except (OSError, ValueError, IndexError):
        pass
    import psutil  # type: ignore[import-untyped]

    return int(psutil.virtual_memory().available)


def _cgroup_rooms() -> list[int]:
    """Bytes left in each control group with a memory limit around this process; empty where there is none."""
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return []
    rooms: list[int | None] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, names = _CGROUPS, _VERSION_2
        elif "memory" in controllers.split(","):
            mount, names = _CGROUPS / "memory", _VERSION_1
        else:
            continue
        # A limit may stand on any level above this process. In a container the path may be the host's: then
        # there is nothing on the way, and the files stand at the mount's root.
        group = mount / path.strip("/")
        rooms += [_room(folder, names) for folder in (group, *group.parents) if folder.is_relative_to(mount)]
    return [room for room in rooms if room is not None]


def _room(group: Path, names: _Names) -> int | None:
    """Bytes left below one group's limit; None when it has no limit.

    Files that were read count as used, and the kernel drops them before it kills anything: those that nobody
    has mapped are free. Else a bundle would not fit any more once it was read for the second time.
    """
    try:
        limit = (group / names.limit).read_text().strip()
        usage = int((group / names.usage).read_text())
        statistics = (group / "memory.stat").read_text().split()
    except (OSError, ValueError):
        return None
    if not limit.isdecimal():  # "max"
        return None
    values = dict(zip(statistics[::2], map(int, statistics[1::2]), strict=False))
    read = sum(values.get(name, 0) for name in names.files_read)
    droppable = max(0, read - values.get(names.files_mapped, 0))
    return max(0, int(limit) - usage + droppable)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
