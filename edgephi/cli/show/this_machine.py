"""What can be built and run on this machine: the system's facts and the targets' wishes, put together."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgephi.cli.show.say import say
from edgephi.commands import install_command
from edgephi.declared.target import Target, read_target, targets
from edgephi.engines.facts.packages import installed_version
from edgephi.engines.facts.prerequisites import build_problem
from edgephi.engines.facts.registry import known_engines
from edgephi.errors import NotSupportedError
from edgephi.machine.bandwidth import read_bandwidth
from edgephi.machine.host import Host, describe_host
from edgephi.machine.measurement import Room
from edgephi.runtime.engines.availability import EngineState, engine_states, run_problem

if TYPE_CHECKING:
    from edgephi.build.rank import Prospect
    from edgephi.declared.recipe import Recipe

AUTO = "auto"
"""Stands for a target's name: the best one for this machine."""

_BUSY_PERCENT = 25
_GPU_VENDORS = {"cuda": "NVIDIA"}
"""Provider -> whose GPUs it computes on; the others compute in the machine's own memory."""


@dataclass(frozen=True)
class TargetState:
    """One target on this machine; a problem is None where there is none."""

    target: Target
    build_problem: NotSupportedError | None
    run_problem: NotSupportedError | None


@dataclass(frozen=True)
class ThisMachine:
    """`bytes_per_second`: read from memory by all threads. `engines` by name; `targets`: all shipped ones."""

    host: Host
    bytes_per_second: float
    engines: dict[str, EngineState]
    targets: tuple[TargetState, ...]


def survey() -> ThisMachine:
    """Look at this machine; takes some seconds, of which one reads memory as fast as it can."""
    host, bandwidth = measured_host()
    shipped = targets()
    wanted: dict[str, list[str]] = {engine: [] for engine in known_engines()}
    for target in shipped:
        wanted.setdefault(target.engine, []).append(target.provider)
    engines = engine_states(wanted)
    states = tuple(
        TargetState(target, build_problem(target.engine), _run_problem(target, host, engines))
        for target in shipped
    )
    return ThisMachine(host, bandwidth, engines, states)


def measured_host() -> tuple[Host, float]:
    """What this machine is, and the bytes per second that it reads from memory."""
    host = describe_host()
    return host, read_bandwidth(host.available_bytes, threads=host.processor.usable_cores)


def is_busy(host: Host) -> bool:
    """Whether other programs take so much of the processors that measured speeds are too low."""
    return host.busy_percent > _BUSY_PERCENT


def warn_when_busy(host: Host) -> None:
    """Say so on standard error when other programs are in the way of a measurement."""
    if is_busy(host):
        say(
            f"warning: other programs take {host.busy_percent:.0f} % of the processors: "
            "speeds will be too low",
            err=True,
        )


def machine_line(host: Host, bytes_per_second: float) -> str:
    """The machine in a line, for the head of what was measured or foretold for it."""
    processor = host.processor
    return (
        f"{host.board or processor.model}, {processor.usable_cores} threads, "
        f"{host.memory_bytes / 1e9:.1f} GB of memory read at {bytes_per_second / 1e9:.1f} GB/s"
    )


def room(host: Host, bytes_per_second: float, provider: str) -> Room:
    """The memory that a provider computes in: that of the largest of its GPUs, or the machine's."""
    gpus = [gpu for gpu in host.accelerators if gpu.vendor == _GPU_VENDORS.get(provider)]
    if gpus:
        gpu = max(gpus, key=lambda gpu: gpu.free_bytes or 0)
        return Room(gpu.name, gpu.free_bytes or 0, gpu.bytes_per_second)
    return Room("memory", host.available_bytes, bytes_per_second)


def here(target: Target) -> Target:
    """The target with this machine's free memory and bandwidth as its limits."""
    space = room(*measured_host(), target.provider)
    rate = space.bytes_per_second
    limits = dataclasses.replace(
        target.limits,
        memory_bytes=space.free_bytes,
        memory_bytes_per_second=None if rate is None else round(rate),
    )
    return dataclasses.replace(target, limits=limits)


def prospects(
    machine: ThisMachine, model: str, recipe: "Recipe", *, revision: str | None, context: int | None
) -> "Sequence[Prospect]":
    """All targets that may be meant for this machine, the best for `model` first.

    Targets of another single device are left out. Raises DoesNotFitError with every reason when none can be
    built, run and held in memory here.
    """
    from edgephi.build.build import find_architecture
    from edgephi.build.rank import Candidate, check_choice, rank

    candidates = [
        Candidate(
            state.target,
            room(machine.host, machine.bytes_per_second, state.target.provider),
            state.build_problem or state.run_problem,
            machine.host.processor.features,
        )
        for state in machine.targets
        if machine.host.board.startswith(state.target.board)
    ]
    architecture = find_architecture(model, recipe, revision)
    ranked = rank(model, architecture, recipe, candidates, context=context)
    check_choice(model, ranked)
    return ranked


def chosen_target(
    name: str, model: str, recipe: "Recipe", *, revision: str | None, context: int | None
) -> Target:
    """The target of that name; of `AUTO` the best one here, with the reason on standard error."""
    if name != AUTO:
        return read_target(name)
    from edgephi.build.rank import reason

    ranked = prospects(survey(), model, recipe, revision=revision, context=context)
    say(reason(ranked), err=True)
    return ranked[0].candidate.target


def check_proof(target: Target) -> None:
    """Raise NotSupportedError when the engine that would prove a bundle is not here, before a long build."""
    facts = known_engines().get(target.engine)
    if facts is None:
        return  # which is for the exporters to say
    if installed_version(facts) is None:
        install = install_command(facts.provider(target.provider).extra)
        raise NotSupportedError(
            f"the bundle is proven with {target.engine}, which is not installed",
            hint=f"`{install}`, or build without a proof: --verify off",
        )


def _run_problem(target: Target, host: Host, engines: dict[str, EngineState]) -> NotSupportedError | None:
    if not host.board.startswith(target.board):
        return NotSupportedError(
            f"made for a {target.board}, which this machine is not", hint="build it here and run it there"
        )
    if (target.limits.memory_bytes or 0) > host.memory_bytes:
        return NotSupportedError(
            f"made for a device with more memory than the {host.memory_bytes / 1e9:.1f} GB here",
            hint="choose a target for any device",
        )
    return run_problem(
        target.engine,
        target.provider,
        arch=target.arch,
        allowed=target.engines.get(target.engine, ""),
        state=engines.get(target.engine),
    )
