"""Which target and group size are the fastest for a model on this machine: measured, on a part of the model.

Every candidate is built with its first layers only, at two depths, and measured. The time of a prompt, of a
token and of loading grows by the same amount with each layer, so two depths tell what a layer takes and
what embedding, head and the engine itself take; the whole model's times follow on that line. Two depths of
a quarter and less cost a fraction of building and measuring every candidate whole.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgephi.build.build import build
from edgephi.build.plan import Plan, make_plan
from edgephi.build.request import BuildRequest
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.located import Located
from edgephi.commands import edgephi_command
from edgephi.declared.recipe import GroupSize, Recipe
from edgephi.declared.target import Target
from edgephi.errors import CannotServeError, DoesNotFitError, EdgephiError
from edgephi.machine.measurement import BenchRequest, Measurement
from edgephi.steps import Step

GROUP_SIZES: tuple[GroupSize, ...] = (32, 128)

# Weights of the smaller cut over the processor's largest cache: less, and the cache would carry a share of
# the reading that it cannot carry for the whole model.
_CACHE_MULTIPLE = 2
_SMALLEST_SHARE = 8  # at least an eighth of the layers
_SECOND_DEPTHS = (3, 2)  # times the first, the further away the better: noise grows with the distance beyond
_LARGEST_SHARE = 0.75  # of the layers; deeper, measuring all of them is hardly more work

AGREEMENT = 0.03
"""The two best runs of a candidate should differ by no more than this share."""
_MOST_ROUNDS = 3

Measure = Callable[[Path, BenchRequest], Measurement]


@dataclass(frozen=True)
class Variant:
    """A candidate: a target and a recipe, and the plan of the whole model with them."""

    target: Target
    recipe: Recipe
    plan: Plan

    @property
    def name(self) -> str:
        """What it is called in a table: target and group size."""
        return f"{self.target.name}-g{self.plan.recipe.quant.group_size}"


@dataclass(frozen=True)
class Refused:
    """A candidate that cannot be measured, and why."""

    name: str
    problem: EdgephiError


@dataclass(frozen=True)
class Times:
    """Seconds: to load, to read the prompt, and for each token after the first."""

    load: float
    prompt: float
    token: float

    def answer(self, request: BenchRequest) -> float:
        """Seconds to read the prompt of the request and write its answer."""
        return self.prompt + (request.generated_tokens - 1) * self.token


@dataclass(frozen=True)
class Estimate:
    """A measured candidate: by number of layers the best times of all runs, and the times of the `whole`.

    `spread` is by how much the two best runs differ, as a share: how far the estimate can be trusted.
    """

    variant: Variant
    depths: dict[int, Times]
    whole: Times
    request: BenchRequest
    spread: float

    @property
    def answer_seconds(self) -> float:
        """Time to read the prompt and write the answer: what candidates are ranked by."""
        return self.whole.answer(self.request)

    @property
    def prefill_tokens_per_second(self) -> float:
        """Of the whole model."""
        return self.request.prompt_lengths[0] / self.whole.prompt

    @property
    def decode_tokens_per_second(self) -> float:
        """Of the whole model."""
        return 1 / self.whole.token


@dataclass(frozen=True)
class Tuning:
    """What was found: estimates with the fastest first, and what could not be measured."""

    layers: int
    estimates: tuple[Estimate, ...]
    refused: tuple[Refused, ...]


def variants(
    model: str,
    architecture: Architecture,
    recipe: Recipe,
    targets: Iterable[Target],
    *,
    context: int | None,
    free_bytes: Callable[[Target], int],
) -> tuple[list[Variant], list[Refused]]:
    """The candidates: each target with the recipe's group size and with GROUP_SIZES, as far as it takes them.

    Those whose whole model does not fit into `free_bytes` are refused.
    """
    found: dict[str, Variant] = {}
    refused: dict[str, Refused] = {}
    for target in targets:
        limits = dataclasses.replace(target.limits, memory_bytes=free_bytes(target))
        here = dataclasses.replace(target, limits=limits)
        sizes = (recipe.quant.group_size, *GROUP_SIZES)
        for size in dict.fromkeys(sizes):
            own = with_group_size(recipe, size)
            try:
                plan = make_plan(model, architecture, own, here, context=context, alternatives=False)
            except CannotServeError as problem:
                refused[f"{target.name}-g{size}"] = Refused(f"{target.name}-g{size}", problem)
            else:
                variant = Variant(target, own, plan)
                # A target may dictate another size than was asked for.
                found.setdefault(variant.name, variant)
    return list(found.values()), list(refused.values())


def with_group_size(recipe: Recipe, size: GroupSize) -> Recipe:
    """The recipe with groups of another size."""
    return dataclasses.replace(recipe, quant=dataclasses.replace(recipe.quant, group_size=size))


def cut_depths(architecture: Architecture, bits: int, cache_bytes: int) -> tuple[int, ...]:
    """How many layers to measure with: two depths, or all layers when two depths would be nearly as many.

    `bits` is what a weight takes, `cache_bytes` the size of the processor's largest cache.
    """
    in_layers = sum(
        math.prod(shape)
        for tensor, shape in architecture.tensor_shapes().items()
        if len(shape) > 1 and tensor.layer is not None
    )
    layer_bytes = in_layers * bits / 8 / architecture.layers
    outside_cache = -(-_CACHE_MULTIPLE * cache_bytes // max(1, round(layer_bytes)))
    first = max(2, outside_cache, -(-architecture.layers // _SMALLEST_SHARE))
    for times in _SECOND_DEPTHS:
        if times * first <= _LARGEST_SHARE * architecture.layers:
            return first, times * first
    return (architecture.layers,)


def tune(
    model: str,
    located: Located,
    candidates: Sequence[Variant],
    *,
    depths: Sequence[int],
    folder: Path,
    request: BenchRequest,
    runs: int,
    context: int | None,
    measure: Measure,
    step: Step,
) -> Tuning:
    """Build every candidate at every depth into `folder`, measure each `runs` times, and extrapolate.

    Runs of different candidates alternate. The best of the runs counts, because other programs can only slow
    one down; where the two best do not agree there are up to three times as many runs. A candidate that fails
    is left out and named. Raises DoesNotFitError when none is left.
    """
    # The hub's hashes are of whole files, and a cut reads parts of them.
    parts = dataclasses.replace(located, expected_sha256={})
    trials = []
    for variant in candidates:
        with step(f"build {variant.name}", 0):
            bundles = {
                depth: _build(model, parts, variant, depth=depth, folder=folder, context=context)
                for depth in depths
            }
            trials.append(_Trial(variant, bundles, request))
    for run in range(1, _MOST_ROUNDS * runs + 1):
        for trial in trials:
            if trial.problem is None and (run <= runs or (runs > 1 and trial.spread > AGREEMENT)):
                with step(f"run {run}: {trial.variant.name}", 0):
                    trial.measure(measure)
    refused = tuple(Refused(each.variant.name, each.problem) for each in trials if each.problem is not None)
    estimates = [trial.estimate() for trial in trials if trial.problem is None]
    if not estimates:
        reasons = "; ".join(f"{each.name}: {each.problem.message}" for each in refused)
        raise DoesNotFitError(
            f"{model}: no candidate could be measured: {reasons or 'there are none'}",
            hint=f"`{edgephi_command('doctor')}` says what this machine can run",
        )
    ranked = tuple(sorted(estimates, key=lambda estimate: estimate.answer_seconds))
    return Tuning(ranked[0].variant.plan.architecture.layers, ranked, refused)


class _Trial:
    """One candidate while it is measured."""

    def __init__(self, variant: Variant, bundles: dict[int, Path], request: BenchRequest) -> None:
        self.variant = variant
        self.problem: EdgephiError | None = None
        self._bundles = bundles
        self._request = request
        self._runs: dict[int, list[Times]] = {depth: [] for depth in bundles}

    def measure(self, measure: Measure) -> None:
        """Take the times of every depth once more."""
        try:
            for depth, bundle in self._bundles.items():
                self._runs[depth].append(_times(measure(bundle, self._request)))
        except CannotServeError as problem:
            self.problem = problem

    @property
    def spread(self) -> float:
        """By how much the second-best run took longer than the best one, at the depth where it is most."""
        spreads = []
        for runs in self._runs.values():
            best = sorted(times.answer(self._request) for times in runs)
            spreads.append(best[1] / best[0] - 1 if len(best) > 1 else 0.0)
        return max(spreads)

    def estimate(self) -> Estimate:
        """What the best runs say about the whole model."""
        best = {
            depth: Times(*(min(column) for column in zip(*map(dataclasses.astuple, runs), strict=True)))
            for depth, runs in self._runs.items()
        }
        whole = extrapolate(best, self.variant.plan.architecture.layers)
        return Estimate(self.variant, best, whole, self._request, self.spread)


def extrapolate(depths: dict[int, Times], layers: int) -> Times:
    """The times of `layers` layers, on the straight line through one or two measured depths."""
    if len(depths) == 1:
        (times,) = depths.values()
        return times
    (short, a), (long, b) = sorted(depths.items())
    reach = (layers - short) / (long - short)

    def whole(name: str) -> float:
        first, second = getattr(a, name), getattr(b, name)
        # More layers never take less time: what looks so is noise.
        return float(first + max(0.0, second - first) * reach)

    return Times(**{field.name: whole(field.name) for field in dataclasses.fields(Times)})


def _build(
    model: str, located: Located, variant: Variant, *, depth: int, folder: Path, context: int | None
) -> Path:
    """Build a candidate's first layers. Rounded to nearest: speed does not depend on how good weights are."""
    recipe = dataclasses.replace(
        variant.recipe,
        name=f"{variant.recipe.name}-first-{depth}-layers",
        quant=dataclasses.replace(variant.recipe.quant, method="rtn"),
    )
    output = folder / f"{variant.name}-first-{depth}"
    request = BuildRequest(model, variant.target, recipe, output, verify="off", context=context, layers=depth)
    build(request, located, _silent)
    return output


def _times(measurement: Measurement) -> Times:
    """The times of one run. Raises CannotServeError when the model stopped before there was any to take."""
    (speed,) = measurement.speeds
    if not speed.decode_tokens_per_second:
        raise CannotServeError(
            "expected several tokens to measure decode with, found one", hint="try another --prompt-tokens"
        )
    return Times(measurement.load_seconds, speed.first_token_seconds, 1 / speed.decode_tokens_per_second)


@contextlib.contextmanager
def _silent(_title: str, _size: int) -> Iterator[Callable[[int], None]]:
    """A step of a build that is itself part of a step."""
    yield lambda _units: None
