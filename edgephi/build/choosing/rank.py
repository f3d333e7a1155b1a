"""Which target suits a model best on one machine: plans, held against its memory and ranked by speed."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from edgephi.build.build import find_architecture
from edgephi.build.choosing.this_machine import ThisMachine
from edgephi.build.plan import Plan, PlanRequest, make_plan, within_memory
from edgephi.checkpoint.architecture import Architecture
from edgephi.commands import edgephi_command
from edgephi.declared.recipe import Recipe
from edgephi.declared.target import Target
from edgephi.engines.facts.processors import most_like
from edgephi.engines.facts.registry import facts_of, known_engines
from edgephi.errors import CannotServeError, DoesNotFitError
from edgephi.machine.provider_memory import ProviderMemory

_SHORT_CONTEXT = 256  # tokens; what does not fit with so few does not fit at all


@dataclass(frozen=True)
class Candidate:
    """A target that may be chosen. `problem`: why it cannot be built or run here, whatever the model.

    `features` are those of this machine's processor.
    """

    target: Target
    memory: ProviderMemory
    problem: CannotServeError | None = None
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prospect:
    """What a candidate would be for the model. `problem` is None when it can be chosen.

    `plan` is None when there can be no plan. `largest_context` is the most tokens that fit here.
    `decode_limit` is what memory bandwidth allows at half the context, in tokens per second; `decode_share`
    how much of it the engine was measured to reach, None where nobody has measured.
    """

    candidate: Candidate
    plan: Plan | None
    largest_context: int = 0
    decode_limit: float | None = None
    decode_share: float | None = None
    problem: CannotServeError | None = None

    @property
    def expected_decode(self) -> float:
        """What it is ranked by: the limit times the share; where unknown, the least share of any engine."""
        share = self.decode_share or _least_share(self.candidate.features)
        return (self.decode_limit or 0.0) * share


def prospects(
    machine: ThisMachine, model: str, recipe: Recipe, *, revision: str | None, context: int | None
) -> Sequence[Prospect]:
    """All targets that may be meant for this machine, the best for `model` first.

    Targets of another single device are left out. Raises DoesNotFitError with every reason when none can be
    built, run and held in memory here.
    """
    candidates = [
        Candidate(
            state.target,
            machine.memory_of(state.target.provider),
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


def rank(
    model: str,
    architecture: Architecture,
    recipe: Recipe,
    candidates: Sequence[Candidate],
    *,
    context: int | None = None,
) -> list[Prospect]:
    """A prospect for each candidate: those that can be chosen first, the fastest of them at the top.

    Of two as fast, a target for exactly this device comes first, then the one that takes less memory.
    """
    prospects = [_prospect(model, architecture, recipe, each, context) for each in candidates]

    def order(prospect: Prospect) -> tuple[bool, float, bool, int]:
        need = prospect.plan.memory.total if prospect.plan else 0
        return (
            prospect.problem is not None,
            -prospect.expected_decode,
            not prospect.candidate.target.board,
            need,
        )

    return sorted(prospects, key=order)


def reason(prospects: Sequence[Prospect]) -> str:
    """Why the first of ranked prospects is the best, in a sentence. It must be one that can be chosen."""
    best = prospects[0]
    others = [each for each in prospects[1:] if each.problem is None]
    assert best.plan is not None  # noqa: S101 - what can be chosen has a plan
    target = best.candidate.target
    fits = (
        f"it needs {best.plan.memory.total / 1e9:.2f} GB at {best.plan.context} tokens, "
        f"{best.candidate.memory.free_bytes / 1e9:.1f} GB are free"
    )
    if not others:
        return f"{target.name} is the only target that can run here and fits: {fits}."
    second = others[0]
    if best.decode_limit is None or second.expected_decode == best.expected_decode:
        return f"{target.name} is as fast as {second.candidate.target.name} by all that is known, and {fits}."
    faster = best.expected_decode / second.expected_decode if second.expected_decode else 0
    beside = f"{faster:.1f} times as fast as {second.candidate.target.name}" if faster else "the fastest"
    return f"{target.name} should be the fastest of {len(others) + 1}, {beside}, and fits: {fits}."


def check_choice(model: str, prospects: Sequence[Prospect]) -> None:
    """Raise DoesNotFitError with every reason when none of ranked prospects can be chosen."""
    if any(prospect.problem is None for prospect in prospects):
        return
    reasons = "; ".join(
        f"{prospect.candidate.target.name}: {prospect.problem}" for prospect in prospects if prospect.problem
    )
    hints = [prospect.problem.hint for prospect in prospects if isinstance(prospect.problem, DoesNotFitError)]
    raise DoesNotFitError(
        f"{model}: no target can run here: {reasons or 'there are none'}",
        hint=hints[0] if hints else f"`{edgephi_command('doctor')}` says what would help",
    )


def _prospect(
    model: str, architecture: Architecture, recipe: Recipe, candidate: Candidate, context: int | None
) -> Prospect:
    target, memory = candidate.target, candidate.memory
    # The declared memory of a named device is not what is free here.
    anywhere = _with_memory(target, None)
    try:
        plan = make_plan(model, architecture, recipe, anywhere, context=context)
    except CannotServeError as refused:
        return Prospect(candidate, None, problem=candidate.problem or refused)
    problem = candidate.problem
    here = _with_memory(target, memory.free_bytes)
    try:
        few = min(_SHORT_CONTEXT, plan.context)
        short = make_plan(model, architecture, recipe, here, context=few, alternatives=False)
        largest = short.largest_context or 0
    except DoesNotFitError:
        largest = 0
    if problem is None and largest < plan.context:
        problem = DoesNotFitError(
            f"needs {plan.memory.total / 1e9:.2f} GB at {plan.context} tokens, "
            f"{memory.free_bytes / 1e9:.2f} GB are free",
            hint=within_memory(
                PlanRequest(model, architecture, recipe, here, plan.context),
                largest,
                otherwise="stop other programs, or choose a smaller model",
            ),
        )
    limit = None
    if memory.bytes_per_second is not None:
        # Each token reads all weights of its own once, and the cache of those before it.
        read = plan.artifact_bytes - plan.idle_bytes
        limit = memory.bytes_per_second / (read + plan.memory.kv_cache / 2)
    provider = facts_of(target.engine).provider(target.provider)
    share = provider.decode_shares.get(most_like(candidate.features))
    return Prospect(candidate, plan, largest, limit, share, problem)


def _least_share(features: tuple[str, ...]) -> float:
    """The least that any engine reached on the processor that is most like one with these features."""
    processor = most_like(features)
    every = [each for facts in known_engines().values() for each in facts.providers.values()]
    return min(each.decode_shares[processor] for each in every if processor in each.decode_shares)


def _with_memory(target: Target, memory_bytes: int | None) -> Target:
    limits = dataclasses.replace(target.limits, memory_bytes=memory_bytes)
    return dataclasses.replace(target, limits=limits)
