"""What can be built and run on this machine: the system's facts and the targets' wishes, put together."""

import dataclasses
from dataclasses import dataclass

from edgephi.commands import install_command
from edgephi.declared.target import Target, targets
from edgephi.engines.facts.packages import installed_version
from edgephi.engines.facts.prerequisites import build_problem
from edgephi.engines.facts.registry import known_engines
from edgephi.errors import NotSupportedError
from edgephi.machine.host import Host
from edgephi.machine.provider_memory import ProviderMemory, measured_host, provider_memory
from edgephi.runtime.engines.availability import EngineState, engine_states, run_problem


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

    def memory_of(self, provider: str) -> ProviderMemory:
        """The memory that a provider computes in here."""
        return provider_memory(self.host, self.bytes_per_second, provider)


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


def here(target: Target) -> Target:
    """The target with this machine's free memory and bandwidth as its limits."""
    memory = provider_memory(*measured_host(), target.provider)
    rate = memory.bytes_per_second
    limits = dataclasses.replace(
        target.limits,
        memory_bytes=memory.free_bytes,
        memory_bytes_per_second=None if rate is None else round(rate),
    )
    return dataclasses.replace(target, limits=limits)


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
