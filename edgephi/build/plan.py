"""The plan of a build: everything that it will make and need, computed from shapes alone. Writes nothing."""

import contextlib
import dataclasses
import itertools
import json
from bisect import bisect_right
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgephi.build.device_memory import Memory, idle_bytes, memory_at
from edgephi.build.matrix_names import names_of
from edgephi.build.seeing.image_plans import plan_image_encoder, unpacked_bytes
from edgephi.build.tensor_plans import improvable, least_bits_per_weight, most_added, plan_tensors
from edgephi.checkpoint.architecture import Architecture
from edgephi.declared.quality import at_quality
from edgephi.declared.recipe import MOST_BITS_PER_WEIGHT, Keep, Quant, Recipe
from edgephi.declared.target import Target
from edgephi.engines.facts.registry import facts_of
from edgephi.errors import CannotServeError, DoesNotFitError, NotSupportedError, WrongRoutingError
from edgephi.export.exporter import exporter as exporter_of
from edgephi.quantize.tensor_plan import TensorPlans, quantised_tensors

_STEP = 256  # tokens: the steps in which a context that fits is looked for
_NOTHING_FITS = "choose a smaller model or a larger device"


@dataclass(frozen=True)
class Plan:
    """What `build` will do. `context` is what the bundle serves; sizes are bytes.

    `recipe` is the one asked for, with what the target's engine dictates about groups put into it.

    `kept` names the matrices that have more bits than others of their kind.

    Where the recipe has the build choose some of these (`undecided`), sizes are the most that it may come to.
    Where nothing is left to choose, `recipe` asks for no choice.

    `bits_per_weight` is the artifact's size over the number of weights, so it counts all that is stored.

    `largest_context` is the most tokens that fit into the target's memory, None when that is not known.
    `decode_tokens_per_second` is the bound that the target's memory bandwidth sets, None when not known. A
    token reads all of the artifact but `idle_bytes` of it: the experts that it does not have.

    `deviation` says what the engine computes otherwise than the model, where that was accepted.

    Of a model that sees, `image_tensors` are those of its encoder, whose bytes count in `artifact_bytes`, and
    in `idle_bytes` too: no token of an answer reads them.
    """

    model: str
    recipe: Recipe
    target: Target
    architecture: Architecture
    tensors: TensorPlans
    kept: tuple[str, ...]
    context: int
    artifact_bytes: int
    bits_per_weight: float
    memory: Memory
    largest_context: int | None
    decode_tokens_per_second: float | None
    idle_bytes: int = 0
    deviation: str = ""
    image_tensors: TensorPlans = field(default_factory=dict)

    @property
    def undecided(self) -> bool:
        """Whether the build has yet to choose what is kept at more bits."""
        return self.recipe.quant.chooses

    @property
    def in_smaller_groups(self) -> int:
        """How many matrices have columns that the recipe's groups do not divide; K-quants have their own."""
        size, shapes = self.recipe.quant.group_size, self.architecture.tensor_shapes()
        schemes = quantised_tensors(self.tensors).items()
        return sum(
            shapes[tensor][-1] % size != 0 for tensor, scheme in schemes if scheme.scales != "superblocks"
        )


def make_plan(
    model: str,
    architecture: Architecture,
    recipe: Recipe,
    target: Target,
    *,
    context: int | None = None,
    alternatives: bool = True,
    accept_wrong_routing: bool = False,
) -> Plan:
    """Plan the build of a checkpoint with this architecture.

    `context` replaces the target's. Raises DoesNotFitError when the bundle cannot run on the target with
    it, NotSupportedError when recipe, target and checkpoint cannot be combined.

    With `alternatives` the hint of the former names what else of recipe and quality would do, by plans of it.
    With `accept_wrong_routing` a WrongRoutingError ends nothing: its message is the plan's deviation.
    """
    exporter, deviation = exporter_of(target.engine), ""
    try:
        exporter.check_architecture(architecture)
    except WrongRoutingError as refused:
        if not accept_wrong_routing:
            raise
        deviation = refused.message
    recipe = dataclasses.replace(recipe, quant=suited(recipe.quant, target))
    image_tensors, image_bytes = plan_image_encoder(architecture.image_encoder, recipe.quant, target)
    native = facts_of(target.engine).native_groups
    plans = plan_tensors(architecture, recipe.quant, native)
    exporter.check_schemes(plans, target)
    if context is not None and context > architecture.context:
        raise DoesNotFitError(
            f"--context {context}: {model} was made for at most {architecture.context} tokens",
            hint=f"ask for at most {architecture.context}",
        )
    limit = exporter.context_limit(architecture)
    computable = architecture.context if limit is None else min(limit.tokens, architecture.context)
    if context is not None and limit is not None and context > limit.tokens:
        raise NotSupportedError(
            f"context {context}: {limit.reason}", hint=f"--context {limit.tokens} works, or another target"
        )
    served = context or min(target.limits.context, computable)

    def size_of(tensors: TensorPlans, tokens: int = served) -> int:
        return exporter.artifact_bytes(architecture, tensors, target, tokens) + image_bytes

    unkept = dataclasses.replace(recipe.quant, keep=Keep())
    unimproved = plan_tensors(architecture, unkept, native)
    # A name does not give more bits to what has 8 already.
    improved = {tensor for tensor, own in plans.items() if own.scheme != unimproved[tensor].scheme}
    better = improvable(architecture, recipe.quant, native) if recipe.quant.chooses else {}
    try:
        added = most_added(architecture, recipe.quant, plans, better, size_of)
    except DoesNotFitError as refused:
        if not alternatives:
            raise
        asked = PlanRequest(model, architecture, recipe, target, context)
        least = least_bits_per_weight(architecture, size_of(plans))
        raise DoesNotFitError(refused.message, hint=_within_budget(asked, least)) from None
    if not better:  # all have 8 bits as it is
        settled = dataclasses.replace(
            recipe.quant, keep=Keep(recipe.quant.keep.tensors), bits_per_weight=None
        )
        recipe = dataclasses.replace(recipe, quant=settled)
    footprint, facts = exporter.footprint(target), facts_of(target.engine)

    def memory_for(tokens: int) -> Memory:
        size = size_of(plans, tokens) + added
        heaviest, prefill = {**plans, **better}, facts.provider(target.provider).prefill
        return memory_at(
            tokens, architecture, heaviest, footprint, prefill, artifact_bytes=size
        ).with_weights(unpacked_bytes(architecture.image_encoder, image_tensors, footprint))

    memory, artifact_bytes = memory_for(served), size_of(plans) + added
    idle = idle_bytes(architecture, plans) + image_bytes
    largest = _largest_context(computable, memory_for, target)
    if largest is not None and served > largest:
        hint = f"--context {largest} fits" if largest else _NOTHING_FITS
        if alternatives:
            asked = PlanRequest(model, architecture, recipe, target, served)
            hint = within_memory(asked, largest, otherwise=_NOTHING_FITS)
        raise DoesNotFitError(
            f"{model} on {target.name}: needs {memory.total / 1e9:.1f} GB of memory at a context of {served} "
            f"tokens, the device has {(target.limits.memory_bytes or 0) / 1e9:.1f} GB",
            hint=hint,
        )
    bandwidth = target.limits.memory_bytes_per_second
    return Plan(
        model=model,
        recipe=recipe,
        target=target,
        architecture=architecture,
        tensors=plans,
        kept=names_of(improved, architecture),
        context=served,
        artifact_bytes=artifact_bytes,
        bits_per_weight=round(8 * artifact_bytes / architecture.parameters, 3),
        memory=memory,
        largest_context=largest,
        decode_tokens_per_second=None if bandwidth is None else bandwidth / (artifact_bytes - idle),
        idle_bytes=idle,
        deviation=deviation,
        image_tensors=image_tensors,
    )


@dataclass(frozen=True)
class PlanRequest:
    """What a plan was asked for, to ask for something else; `context` as for `make_plan`."""

    model: str
    architecture: Architecture
    recipe: Recipe
    target: Target
    context: int | None


def within_memory(asked: PlanRequest, largest: int, *, otherwise: str) -> str:
    """A hint with what fits into the target's memory, where `asked.context` tokens do not but `largest` do.

    `largest` is 0 when none do. It is `otherwise` when nothing fits at a smaller quality either.
    """
    served = asked.context or 0
    recipe = at_quality(asked.recipe, "small")
    small = 0
    with contextlib.suppress(CannotServeError):
        plan = make_plan(
            asked.model,
            asked.architecture,
            recipe,
            asked.target,
            context=min(served, _STEP),
            alternatives=False,
        )
        small = plan.largest_context or 0
    fitting = [f"--context {largest}"] if largest else []
    if small >= served:
        fitting.append("--quality small")
    elif small > largest:
        fitting.append(f"--quality small --context {small}")
    return f"{' or '.join(fitting)} fits" if fitting else otherwise


def _within_budget(asked: PlanRequest, least: float) -> str:
    """A hint with what of a recipe would do where its `bits_per_weight` are too few, and `least` would do."""
    quant = asked.recipe.quant

    def fits(changes: Mapping[str, Any]) -> bool:
        recipe = dataclasses.replace(asked.recipe, quant=dataclasses.replace(quant, **changes))
        try:
            make_plan(
                asked.model,
                asked.architecture,
                recipe,
                asked.target,
                context=asked.context,
                alternatives=False,
            )
        except CannotServeError:
            return False
        return True

    fitting = []
    if least <= MOST_BITS_PER_WEIGHT and fits({"bits_per_weight": least}):
        fitting.append(f"bits_per_weight = {least:.2f} or more")
    for alternatives in _smaller(quant, tied=asked.architecture.tied_embeddings):
        enough = [changes for changes in alternatives if fits(changes)]
        if enough:
            fitting += map(_in_toml, enough)
            break
    return f"set {', or '.join(fitting)} in the recipe" if fitting else _NOTHING_FITS


def _smaller(quant: Quant, *, tied: bool) -> Iterator[list[dict[str, Any]]]:
    """Settings of a recipe that may make an artifact smaller than `quant` does: what changes least first.

    Those of a list change as much as each other. Whether they count for a format is for a plan to say.
    """
    sizes = [size for size in (64, 128) if size > quant.group_size]
    for size in sizes or [quant.group_size]:
        single: list[dict[str, Any]] = []
        if quant.bits == 8:
            single.append({"bits": 4})
        if size > quant.group_size:
            single.append({"group_size": size})
        if quant.mixture != "small":
            single.append({"mixture": "small"})
        if quant.embedding_bits == 8:
            # Where they are one matrix, it gets the larger number of the two.
            single.append({"embedding_bits": 4, "head_bits": 4} if tied else {"embedding_bits": 4})
        for count in range(1, len(single) + 1):
            yield [dict(ChainMap(*each)) for each in itertools.combinations(single, count)]


def _in_toml(changes: Mapping[str, Any]) -> str:
    """Settings as they are written into a recipe."""
    return " and ".join(f"{key} = {json.dumps(value)}" for key, value in changes.items())


def suited(quant: Quant, target: Target) -> Quant:
    """`quant` with what the target's format dictates of formats, group size and symmetry, where it does."""
    dictated = {key: value for key, value in dataclasses.asdict(target.quant).items() if value is not None}
    return dataclasses.replace(quant, **dictated)


def _largest_context(computable: int, memory_for: Callable[[int], Memory], target: Target) -> int | None:
    """The most tokens that fit, a multiple of 256 unless it is all `computable`; 0 when none do."""
    room = target.limits.memory_bytes
    if room is None:
        return None
    if memory_for(computable).total <= room:
        return computable
    # Not a division: the artifact's own tables grow with the context as well, and twice as fast from where
    # LongRoPE switches.
    steps = range(_STEP, computable, _STEP)
    fitting = bisect_right(steps, room, key=lambda tokens: memory_for(tokens).total)
    return _STEP * fitting
