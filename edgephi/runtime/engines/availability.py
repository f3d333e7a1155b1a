"""Which engines and providers can be used here. Each engine is asked in a process of its own.

An engine that was built for another processor can end the process that imports it, and five engines in one
process take memory that nobody gives back.
"""

import ast
import contextlib
import importlib
import inspect
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from edgephi.commands import install_command
from edgephi.engines.facts.engine import Provider
from edgephi.engines.facts.packages import installed_version
from edgephi.engines.facts.registry import known_engines
from edgephi.errors import EdgephiError, NotSupportedError
from edgephi.processes.ask import Asked, NoAnswerError, answer
from edgephi.runtime.adapter import Adapter, adapter_module, adapter_of, check_version, is_emulated

_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class EngineQuestion:
    """Whether `engine` can be used here, with each of these providers."""

    engine: str
    providers: tuple[str, ...]


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
    questions = [EngineQuestion(each, tuple(wanted[each])) for each in wanted if each in known_engines()]
    with contextlib.ExitStack() as stack:
        asked = [stack.enter_context(Asked(question)) for question in questions]
        return {each.engine: _state(each, one) for each, one in zip(questions, asked, strict=True)}


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


def look(question: EngineQuestion) -> EngineState:
    """Ask one engine about itself, in this process."""
    engine, providers = question.engine, question.providers
    facts = known_engines()[engine]
    adapter, version = adapter_of(facts), installed_version(facts)
    stand_ins = [facts.providers[name].stand_in for name in providers if name in facts.providers]
    providers = (*providers, *filter(is_emulated, stand_ins))
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
    return EngineState(engine, version, problems, details)


def _told(adapter: Adapter, function: str) -> str:
    """What an adapter tells with a function that not all have; "" when it has none or nothing to tell."""
    tell: Callable[[], str | None] | None = getattr(adapter, function, None)
    return "" if tell is None else tell() or ""


def _state(question: EngineQuestion, asked: Asked) -> EngineState:
    """What an engine's process said, or how it ended without saying anything."""
    try:
        return asked.answer(EngineState, seconds=_TIMEOUT_SECONDS)
    except NoAnswerError as cause:
        problem = f"expected it to load, found that its process {cause.how}"
    except EdgephiError as error:
        problem = error.message
    version = installed_version(known_engines()[question.engine])
    return EngineState(question.engine, version, dict.fromkeys(question.providers, problem))


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
    answer(EngineQuestion, lambda question, _done: look(question))
