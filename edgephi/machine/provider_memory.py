"""The memory that a provider computes in, and how fast this machine reads it."""

from dataclasses import dataclass

from edgephi.machine.bandwidth import read_bandwidth
from edgephi.machine.host import Host, describe_host

_GPU_VENDORS = {"cuda": "NVIDIA"}
"""Provider -> whose GPUs it computes on; the others compute in the machine's own memory."""


@dataclass(frozen=True)
class ProviderMemory:
    """The memory that a provider computes in: `name`, bytes that are free, bytes read per second if known."""

    name: str
    free_bytes: int
    bytes_per_second: float | None


def measured_host() -> tuple[Host, float]:
    """What this machine is, and the bytes per second that it reads from memory."""
    host = describe_host()
    return host, read_bandwidth(host.available_bytes, threads=host.processor.usable_cores)


def provider_memory(host: Host, bytes_per_second: float, provider: str) -> ProviderMemory:
    """The memory that a provider computes in: that of the largest of its GPUs, or the machine's."""
    gpus = [gpu for gpu in host.accelerators if gpu.vendor == _GPU_VENDORS.get(provider)]
    if gpus:
        gpu = max(gpus, key=lambda gpu: gpu.free_bytes or 0)
        return ProviderMemory(gpu.name, gpu.free_bytes or 0, gpu.bytes_per_second)
    return ProviderMemory("memory", host.available_bytes, bytes_per_second)
