"""What this machine is, as far as it matters for running a model.

Every fact is read from the system; nothing is guessed, and what cannot be known is None or empty.
"""

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgephi.machine.accelerators import Accelerator, find_accelerators
from edgephi.machine.memory import available_memory
from edgephi.processes.child_process import run_child

_ROOT = Path("/")
_WATCH_SECONDS = 0.3
# Features that the engines' integer kernels are written for, by the names that Linux gives them.
_FEATURES: dict[str, str] = {
    # x86-64
    "avx2": "avx2",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_int8": "amx_int8",
    # 64-bit Arm
    "asimd": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}
_BUSY_PERCENT = 25
_MAC_FEATURES: dict[str, str] = {
    "hw.optional.avx2_0": "avx2",
    "hw.optional.neon": "neon",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
}


@dataclass(frozen=True)
class Processor:
    """`usable_cores`: logical ones that this process may use, by its affinity and its group's quota."""

    model: str
    architecture: str
    physical_cores: int | None
    logical_cores: int
    usable_cores: int
    features: tuple[str, ...]


@dataclass(frozen=True)
class Host:
    """One machine. `board` names a single-board computer or a Mac and is empty elsewhere.

    `memory_bytes` is what is built in, `available_bytes` what this process can still take. `busy_percent` is
    how much of the processors other programs take right now.
    """

    system: str
    kernel: str
    python: str
    board: str
    processor: Processor
    memory_bytes: int
    available_bytes: int
    busy_percent: float
    accelerators: tuple[Accelerator, ...]

    @property
    def is_busy(self) -> bool:
        """Whether other programs take so much of the processors that measured speeds are too low."""
        return self.busy_percent > _BUSY_PERCENT


def describe_host(root: Path = _ROOT) -> Host:
    """What this machine is, after a moment of watching; the kernel's files are looked for below `root`."""
    import psutil  # type: ignore[import-untyped]

    return Host(
        system=_system(),
        kernel=platform.release(),
        python=platform.python_version(),
        board=_board(root),
        processor=_processor(root),
        memory_bytes=int(psutil.virtual_memory().total),
        available_bytes=available_memory(),
        busy_percent=float(psutil.cpu_percent(interval=_WATCH_SECONDS)),
        accelerators=find_accelerators(root),
    )


def usable_cores(root: Path = _ROOT) -> int:
    """Logical processors that this process may use: by its affinity, and by its control groups' quotas."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *_quotas(root)]))


def _system() -> str:
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]}"
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _board(root: Path) -> str:
    if platform.system() == "Darwin":
        return _sysctl("hw.model").get("hw.model", "")
    try:
        return (root / "proc/device-tree/model").read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _processor(root: Path) -> Processor:
    import psutil

    if platform.system() == "Darwin":
        facts = _sysctl("machdep.cpu.brand_string", *_MAC_FEATURES)
        model = facts.get("machdep.cpu.brand_string", "")
        features = tuple(name for key, name in _MAC_FEATURES.items() if facts.get(key) == "1")
    else:
        described = _cpuinfo(root)
        # Arm's kernels give numbers in place of a name; `lscpu` has the list of them.
        model = described.get("model name", "") or _lscpu_model()
        flags = set(described.get("flags", described.get("Features", "")).split())
        features = tuple(name for flag, name in _FEATURES.items() if flag in flags)
    return Processor(
        model=model or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        physical_cores=psutil.cpu_count(logical=False),
        logical_cores=psutil.cpu_count() or 1,
        usable_cores=usable_cores(root),
        features=features,
    )


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; every processor says the same here."""
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    facts: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    return facts


def _lscpu_model() -> str:
    try:
        command = ["lscpu"]
        environment = {**os.environ, "LC_ALL": "C"}
        done = run_child(command, capture_output=True, text=True, env=environment)
    except OSError:
        return ""
    names = [line.partition(":")[2].strip() for line in done.stdout.splitlines() if "Model name:" in line]
    return ", ".join(dict.fromkeys(names))  # big and small cores have a name each


def _sysctl(*names: str) -> Mapping[str, str]:
    """Values of macOS's system facts by name; those that this Mac does not have are left out."""
    facts = {}
    for name in names:
        done = run_child(["sysctl", "-n", name], capture_output=True, text=True)
        if done.returncode == 0:
            facts[name] = done.stdout.strip()
    return facts


def _quotas(root: Path) -> Iterator[int]:
    """Processors that each control group around this process may use, rounded up."""
    groups = root / "sys/fs/cgroup"
    try:
        own = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in own:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2: a quota may stand on any level above this process
            group = groups / path.strip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(groups):
                    yield from _processors(folder / "cpu.max")
        elif "cpu" in controllers.split(","):
            for folder in (groups / "cpu" / path.strip("/"), groups / "cpu"):
                yield from _processors(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")


def _processors(*files: Path) -> Iterator[int]:
    """Quota over period of a control group, both in microseconds; nothing when it has no quota."""
    try:
        numbers = " ".join(file.read_text() for file in files).split()
    except OSError:
        return
    if len(numbers) == 2 and all(number.isdecimal() for number in numbers) and int(numbers[1]):
        yield -(-int(numbers[0]) // int(numbers[1]))
