"""A target: a device, the engine that runs there, and what it can take. One file of `targets/` each."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from edgephi.declared.recipe import Formats
from edgephi.declared.soc import read_soc
from edgephi.declared.toml_files import find_file, read_all, read_toml
from edgephi.errors import BadDeclarationError, UsageError

FOLDER = "targets"


@dataclass(frozen=True)
class TargetLimits:
    """`context`: tokens served unless a build asks for another number.

    `memory_bytes` and `memory_bytes_per_second` are set for a known device: its memory for the model, and
    the bandwidth that bounds its decode speed. A device refuses a bundle that answers with less than
    `minimum_tokens_per_second` there.
    """

    context: int
    memory_bytes: int | None = None
    memory_bytes_per_second: int | None = None
    minimum_tokens_per_second: float = 0.0


@dataclass(frozen=True)
class Kernels:
    """How the engine's kernels are to compute, where it can be told.

    `accuracy_level` is that of onnxruntime's `MatMulNBits`: 0 leaves activations as they are, 4 makes them
    int8, which OpenVINO does only where the processor has instructions for it. `activations` is the type of
    everything that is no code: activations, KV cache, scales and norms.
    """

    accuracy_level: int = 4
    activations: Literal["float32", "float16"] = "float32"


@dataclass(frozen=True)
class TargetQuant:
    """What the engine's format can hold, where a recipe may ask for something else. None: what that says.

    Size and symmetry are about portable formats, where native ones have their own.
    """

    group_size: Literal[32, 64, 128] | None = None
    symmetric: bool | None = None
    formats: Formats | None = None


@dataclass(frozen=True)
class Target:
    """One file of `targets/`. `arch` as `platform.machine()` names it; `engines` are version ranges.

    `board` is what the system's name of a single device begins with; empty for a target of any device. `soc`
    is the chip that an ahead-of-time compiler compiles for, by its name in `targets/socs`.
    """

    name: str
    summary: str
    engine: str
    provider: str
    arch: tuple[str, ...]
    engines: dict[str, str]
    limits: TargetLimits
    board: str = ""
    soc: str = ""
    kernels: Kernels = field(default_factory=Kernels)
    quant: TargetQuant = field(default_factory=TargetQuant)


def read_target(name: str) -> Target:
    """The target of that name, or in that TOML file. Raises BadDeclarationError."""
    target = read_toml(find_file(name, FOLDER), Target)
    speed = target.limits.minimum_tokens_per_second
    if not (math.isfinite(speed) and speed >= 0):
        raise BadDeclarationError(
            f"{name}: limits: minimum_tokens_per_second: expected 0 or more, found {speed}",
            hint="0 is no limit",
        )
    return target


def for_soc(target: Target, name: str | None) -> Target:
    """The target with the chip of that name, or of that part number, to compile for; None is its own.

    Raises UsageError where nothing is compiled for a chip, and BadDeclarationError for a chip nobody knows.
    """
    if name is None:
        return target
    if not target.soc:
        raise UsageError(
            f"--soc {name}: target {target.name} is not compiled for a chip",
            hint="leave --soc out, or use --target qnn",
        )
    soc = read_soc(name)
    return dataclasses.replace(target, soc=name if name.endswith(".toml") else soc.name)


def targets() -> list[Target]:
    """All shipped targets."""
    return list(read_all(FOLDER, Target))
