"""The GPUs and NPUs of this machine, and what keeps each from being used as far as the system knows.

Nothing is installed for it: NVIDIA's driver answers through its own library, the rest stands in the kernel's
files. Whether an engine can use what is here is for the engine's adapter to say.
"""

import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgephi.processes.child_process import run_child

_ROOT = Path("/")
_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}  # of PCI
_DISPLAY_CLASS = "0x03"
# Drivers of the kernel's accelerator framework, and what each of them drives.
_NPU_DRIVERS = {
    "intel_vpu": ("Intel", "Intel NPU"),
    "amdxdna": ("AMD", "AMD NPU"),
    "qaic": ("Qualcomm", "Qualcomm Cloud AI"),
    "rocket": ("Rockchip", "Rockchip NPU"),
}
_HEXAGON_NODES = ("dev/fastrpc-cdsp", "dev/adsprpc-smd")
_NVML = "libnvidia-ml.so.1"
_NVML_MEMORY_CLOCK = 2
_NVML_TEXT_BYTES = 96


@dataclass(frozen=True)
class Accelerator:
    """One GPU or NPU. `problem` is empty when its driver works and this user may open it.

    Sizes are None where they are not known or where it shares the machine's memory. `bytes_per_second` is
    what its memory's clock and width come to, not a measurement.
    """

    kind: Literal["gpu", "npu"]
    vendor: str
    name: str
    driver: str = ""
    memory_bytes: int | None = None
    free_bytes: int | None = None
    bytes_per_second: float | None = None
    problem: str = ""


def find_accelerators(root: Path = _ROOT) -> tuple[Accelerator, ...]:
    """All accelerators of this machine; the kernel's files are looked for below `root`."""
    nvidia = tuple(_nvidia_gpus())
    others = (gpu for gpu in _pci_gpus(root) if not nvidia or gpu.vendor != "NVIDIA")
    return (*nvidia, *others, *_npus(root), *_apple_gpus())


def _nvidia_gpus() -> Iterator[Accelerator]:
    """What NVIDIA's driver says through its library (https://docs.nvidia.com/deploy/nvml-api)."""
    try:
        nvml = ctypes.CDLL(_NVML)
    except OSError:
        return
    if nvml.nvmlInit_v2() != 0:
        return
    try:
        driver = _nvml_text(nvml.nvmlSystemGetDriverVersion)
        for index in range(_nvml_number(nvml.nvmlDeviceGetCount_v2)):
            device = ctypes.c_void_p()
            if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)) != 0:
                continue
            memory = (ctypes.c_ulonglong * 3)()  # total, free, used
            has_memory = nvml.nvmlDeviceGetMemoryInfo(device, memory) == 0
            clock = _nvml_number(nvml.nvmlDeviceGetMaxClockInfo, device, ctypes.c_uint(_NVML_MEMORY_CLOCK))
            width = _nvml_number(nvml.nvmlDeviceGetMemoryBusWidth, device)
            yield Accelerator(
                kind="gpu",
                vendor="NVIDIA",
                name=_nvml_text(nvml.nvmlDeviceGetName, device),
                driver=f"NVIDIA {driver}",
                memory_bytes=memory[0] if has_memory else None,
                free_bytes=memory[1] if has_memory else None,
                # MHz and bits; memory of every kind is read twice a cycle.
                bytes_per_second=clock * 1e6 * 2 * width / 8 or None,
            )
    finally:
        nvml.nvmlShutdown()


def _nvml_number(function: Callable[..., int], *arguments: Any) -> int:
    """What a function of NVML leaves in its last argument; 0 when it cannot say."""
    number = ctypes.c_uint()
    return number.value if function(*arguments, ctypes.byref(number)) == 0 else 0


def _nvml_text(function: Callable[..., int], *arguments: Any) -> str:
    """The same for a function that leaves text; "unknown" when it cannot say."""
    text = ctypes.create_string_buffer(_NVML_TEXT_BYTES)
    if function(*arguments, text, ctypes.c_uint(_NVML_TEXT_BYTES)) != 0:
        return "unknown"
    return text.value.decode(errors="replace")


def _pci_gpus(root: Path) -> Iterator[Accelerator]:
    """Display controllers on the PCI bus, by vendor; those without a vendor that computes are left out."""
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        vendor = _VENDORS.get(_read(device / "vendor"))
        if vendor is None or not _read(device / "class").startswith(_DISPLAY_CLASS):
            continue
        driver = _link_name(device / "driver")
        problem = ""
        nodes = [node.name for node in (device / "drm").glob("renderD*")]
        if vendor == "NVIDIA":
            problem = f"NVIDIA's driver library {_NVML} cannot be used: install or load its driver"
        elif not driver or not nodes:
            problem = "no kernel driver has taken it"
        else:
            problem = _access_problem(root / "dev/dri" / nodes[0])
        identity = _read(device / "device").removeprefix("0x")
        yield Accelerator("gpu", vendor, f"{vendor} GPU {identity}", driver=driver, problem=problem)


def _npus(root: Path) -> Iterator[Accelerator]:
    """NPUs that the kernel has a driver for."""
    for device in sorted((root / "sys/class/accel").glob("accel*")):
        driver = _link_name(device / "device/driver")
        vendor, name = _NPU_DRIVERS.get(driver, ("unknown", f"NPU of the driver {driver}"))
        problem = _access_problem(root / "dev/accel" / device.name)
        yield Accelerator("npu", vendor, name, driver=driver, problem=problem)
    for node in _HEXAGON_NODES:
        if (root / node).exists():
            problem = _access_problem(root / node)
            yield Accelerator("npu", "Qualcomm", "Qualcomm Hexagon", driver="fastrpc", problem=problem)
            break


def _apple_gpus() -> Iterator[Accelerator]:
    """The GPU of an Apple chip; it has no memory of its own."""
    if (platform.system(), platform.machine()) == ("Darwin", "arm64"):
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        done = run_child(command, capture_output=True, text=True)
        yield Accelerator("gpu", "Apple", f"{done.stdout.strip() or 'Apple'} GPU", driver="Metal")


def _access_problem(node: Path) -> str:
    """Why this user cannot open a device node; empty when they can."""
    if not node.exists():
        return f"{node} is missing: in a container, pass the device through"
    if os.access(node, os.R_OK | os.W_OK):
        return ""
    try:
        group = node.group()
    except (KeyError, OSError, NotImplementedError):  # a group that has no name here
        group = str(node.stat().st_gid)
    return f"no permission for {node}: add this user to the group {group}"


def _read(file: Path) -> str:
    """The text of a kernel's file; empty when there is none."""
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _link_name(link: Path) -> str:
    """The name of what a link of the kernel points to; empty without one."""
    return link.resolve().name if link.exists() else ""
