"""Which Qualcomm chip this machine has, and whether its NPU can be used.

The kernel names the chip in two places: `machine` of its SoC bus, where Qualcomm's driver writes the part
number, and the device tree, whose compatible list ends with the chip. Vendor kernels write a code name into
the first, so both are looked at.

Source: drivers/soc/qcom/socinfo.c and Documentation/devicetree/bindings/arm/qcom.yaml of Linux.
"""

from __future__ import annotations

from pathlib import Path

from edgephi.bundle.artifact.qnn_artifact import ArtifactSoc
from edgephi.commands import edgephi_command
from edgephi.errors import NotSupportedError
from edgephi.runtime.engines.qnn.library import emulates, platform_problem

_ROOT = Path("/")
_SOC_BUS = "sys/devices/soc0/machine"
_DEVICE_TREE = "proc/device-tree/compatible"
_VENDOR = "qcom,"


def chips_here(root: Path = _ROOT) -> tuple[str, ...]:
    """The chip's names on this machine, such as SM8650; none where it is not Qualcomm's."""
    listed = _text(root / _DEVICE_TREE).split("\0")
    # "qcom,sm8650-qrd" is a board and "qcom,sm8650" its chip.
    names = [each.removeprefix(_VENDOR) for each in listed if each.startswith(_VENDOR) and "-" not in each]
    if names:
        names.append(_text(root / _SOC_BUS))
    elif "qualcomm" in _text(root / "sys/devices/soc0/family").lower() or _is_part(_text(root / _SOC_BUS)):
        names = [_text(root / _SOC_BUS)]
    return tuple(dict.fromkeys(name.upper() for name in names if name))


def npu_problem(root: Path = _ROOT) -> str | None:
    """Why the Hexagon NPU of this machine cannot be used, None when it can as far as the system knows."""
    problem = platform_problem()
    if problem is not None:
        return problem
    if emulates():
        return "an x86-64 processor has no Hexagon NPU, only Qualcomm's emulator of it runs here"
    chips = chips_here(root)
    if not chips:
        return "no Qualcomm chip found: neither /sys/devices/soc0 nor the device tree names one"
    # Looks into the whole machine: not before it is needed.
    from edgephi.machine.accelerators import find_accelerators

    npus = [found for found in find_accelerators(root) if found.name == "Qualcomm Hexagon"]
    if not npus:
        return (
            f"the chip is {chips[0]}, but there is no /dev/fastrpc-cdsp: "
            "the kernel's fastrpc driver or the DSP's firmware is missing"
        )
    return npus[0].problem or None


def check_soc(compiled_for: ArtifactSoc, root: Path = _ROOT) -> None:
    """Raise NotSupportedError when a bundle was compiled for another chip than this machine's.

    A chip that the kernel does not name, or a bundle that names no chips, is for Qualcomm's library to judge.
    """
    here = chips_here(root)
    if not here or not compiled_for.chips:
        return
    # Parts of one chip differ in the letters at the end: SM8750P is an SM8750.
    if any(found.startswith(chip.upper()) for found in here for chip in compiled_for.chips):
        return
    raise NotSupportedError(
        f"the bundle was compiled for {compiled_for.name} ({', '.join(compiled_for.chips)}), "
        f"this machine's chip is {here[0]}",
        hint="build it again with --soc for this chip; "
        f"`{edgephi_command('targets', 'socs')}` lists those that edgephi knows",
    )


def _is_part(name: str) -> bool:
    """Whether a name of the SoC bus is a part number of Qualcomm's, such as SM8650 or QCS6490."""
    letters = name.rstrip("0123456789PX")
    return letters in ("SM", "SC", "QCS", "QCM", "SA", "SSG", "SXR", "X1E") and name != letters


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip("\n ")
    except OSError:
        return ""
