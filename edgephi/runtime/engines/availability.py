"""Which engines and providers can be used here. Each engine is asked in a process of its own.

An engine that was built for another processor can end the process that imports it, and five engines in one
process take memory that nobody gives back. `python -m edgephi.runtime.engines.availability ENGINE PROVIDER…`
is that process; it prints one JSON object.
"""

import ast
import importlib
import inspect
import json
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from edgephi.commands import install_command
from edgephi.engines.facts.engine import Provider
from edgephi.engines.facts.packages import installed_version
from edgephi.engines.facts.registry import known_engines
from edgephi.errors import EdgephiError, NotSupportedError
from edgephi.processes.answer_stream import take_standard_output
from edgephi.processes.child_process import start_child
from edgephi.runtime.adapter import Adapter, adapter_module, adapter_of, check_version, is_emulated

_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class EngineState:
    """One engine on this machine. `version` is None when it is not installed.

    `problems` holds for each provider that was asked for why it cannot be used, "" when it can. `details` is
    what else an engine tells of itself, such as the version of a library inside it.
    """

    engine: str
    version: str | None
    problems: Mapping[str, str]
    details: str = ""


def engine_states(wanted: Mapping[str, Sequence[str]]) -> dict[str, EngineState]:
    """The state of each engine in `wanted`, which names the providers to ask about; all at the same time."""
    processes = {
        # -P: a module of the user's working directory must not stand in for one of ours.
        engine: start_child(
            [sys.executable, "-P", "-m", "edgephi.runtime.engines.availability", engine, *providers],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for engine, providers in wanted.items()
        if engine in known_engines()
    }
    try:
        return {engine: _state(engine, process, wanted[engine]) for engine, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def run_problem(
    engine: str, provider: str, *, arch: Sequence[str], allowed: str, state: EngineState | None
) -> NotSupportedError | None:
    """Why a target cannot run here, None when it can; `state` is its engine's, asked about `provider`.

    `arch` are the processors that the target is made for, `allowed` the range of the engine's versions.
    """
    if state is None:
        return NotSupportedError(
            f"this edgephi does not run {engine}", hint="use a newer edgephi, or choose another target"
        )
    facts = known_engines()[engine].provider(provider)
    install = install_command(facts.extra)
    if platform.machine() not in arch:
        return NotSupportedError(
            f"made for {', '.join(arch)}, this machine is {platform.machine()}",
            hint="build it here and run it there",
        )
    problem = state.problems[provider]
    if state.version is None:
        if problem:  # no wheel would help
            return NotSupportedError(problem, hint="build it here and run it there")
        return NotSupportedError(f"{engine} is not installed", hint=install)
    try:
        check_version(engine, state.version, allowed)
    except EdgephiError:
        return NotSupportedError(f"needs {engine} {allowed}, found {state.version}", hint=install)
    return _provider_problem(facts, problem, state) if problem else None


def _provider_problem(provider: Provider, problem: str, state: EngineState) -> NotSupportedError:
    """What is said of an installed engine that cannot use a provider, and what can be done instead."""
    stand_in = provider.stand_in
    if not stand_in:
        hint = install_command(provider.extra)
    elif is_emulated(stand_in) and state.problems.get(stand_in):
        hint = "build it here and run it there"
    elif is_emulated(stand_in):
        hint = "its bundles run here in emulation, whose speed is no device's"
    else:
        hint = f"its bundles run on the {stand_in} too: --provider {stand_in}"
    return NotSupportedError(problem, hint=hint)


def main(engine: str, providers: Sequence[str]) -> dict[str, object]:
    """Ask one engine about itself, in this process."""
    facts = known_engines()[engine]
    adapter, version = adapter_of(facts), installed_version(facts)
    stand_ins = [facts.providers[name].stand_in for name in providers if name in facts.providers]
    providers = [*providers, *filter(is_emulated, stand_ins)]
    problems = dict.fromkeys(providers, "")
    details = ""
    if version is not None:
        broken = _import_problem(adapter_module(facts))
        for provider in providers:
            if provider not in facts.providers:
                problems[provider] = f"this edgephi drives {engine} on {', '.join(facts.providers)} only"
            else:
                problems[provider] = broken or adapter.provider_problem(provider) or ""
        if not broken:
            details = _told(adapter, "details")
    else:
        problems = dict.fromkeys(providers, _told(adapter, "platform_problem"))
    return {"version": version, "problems": problems, "details": details}


def _told(adapter: Adapter, function: str) -> str:
    """What an adapter tells with a function that not all have; "" when it has none or nothing to tell."""
    tell: Callable[[], str | None] | None = getattr(adapter, function, None)
    return "" if tell is None else tell() or ""


def _state(engine: str, process: "subprocess.Popen[str]", providers: Sequence[str]) -> EngineState:
    """What an engine's process said, or how it ended without saying anything."""
    try:
        said, _ = process.communicate(timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        problem = f"it did not load within {_TIMEOUT_SECONDS} s"
    else:
        if process.returncode == 0:
            answer = json.loads(said)
            return EngineState(engine, answer["version"], answer["problems"], answer["details"])
        ending = f"exit code {process.returncode}"
        if process.returncode < 0:
            ending = f"{signal.Signals(-process.returncode).name}"
        problem = f"its process ended with {ending} when it was loaded"
    version = installed_version(known_engines()[engine])
    return EngineState(engine, version, dict.fromkeys(providers, problem))


def _import_problem(adapter: ModuleType) -> str:
    """Why the engine behind an adapter cannot be imported, "" when it can."""
    for name in _imported_later(adapter):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as missing:
            return f"its module {missing.name} is missing"
        except Exception as cause:  # whatever a library does when it cannot start
            return f"it cannot be loaded: {' '.join(str(cause).split()) or type(cause).__name__}"
    return ""


def _imported_later(adapter: ModuleType) -> Iterator[str]:
    """The modules that an adapter imports inside functions: its engine, and what it needs beside it."""
    for function in ast.walk(ast.parse(inspect.getsource(adapter))):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module


if __name__ == "__main__":
    with take_standard_output() as answers:
        print(json.dumps(main(sys.argv[1], sys.argv[2:])), file=answers)
