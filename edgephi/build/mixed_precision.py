"""Which matrices are kept at more bits: those whose rounding costs the model most for what it saves.

What rounding a matrix costs is estimated: the squared error of its products, which is that of its weights,
weighted with the mean squares of their inputs, on some of its rows; times what such an error does to the
model's answers in that place (`edgephi.reference.sensitivity`).
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgephi.build.matrix_names import names_of
from edgephi.build.plan import Plan, make_plan
from edgephi.build.tensor_plans import (
    added_bytes,
    bytes_to_spend,
    improvable,
    matrix_sizes,
    weights_to_keep,
)
from edgephi.build.weighing import WEIGHTED_TOKENS, calibration_text
from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointWeights
from edgephi.checkpoint.roles import ModelTensor
from edgephi.declared.recipe import Keep
from edgephi.engines.facts.registry import facts_of
from edgephi.export.exporter import exporter
from edgephi.quantize.folding import Rows, sampled_rows
from edgephi.quantize.groups import error_sums, restored
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.tensor_plan import TensorPlan, TensorPlans
from edgephi.reference.sensitivity import measure_sensitivity, rows_of_a_token
from edgephi.steps import Step

Floats = NDArray[np.float32]


_PASSAGES, _PASSAGE_TOKENS = 4, 32
"""Of the calibration text, to measure on what errors do: one word in a hundred of it is enough."""


def decided(plan: Plan, checkpoint: Checkpoint, text: Path | None, step: Step) -> Plan:
    """The plan with what it leaves to the build chosen, by what its tensors know of their inputs.

    `text` is the user's to calibrate on, None for ours. A plan that leaves nothing open is returned as it is.
    """
    if not plan.undecided:
        return plan
    weights = CheckpointWeights(checkpoint)
    passages = calibration_text(checkpoint, text, WEIGHTED_TOKENS).passages
    some = passages[:: max(1, len(passages) // _PASSAGES)][:_PASSAGES]
    ids = [passage.ids[:_PASSAGE_TOKENS] for passage in some]
    with step("measure sensitivity", 2 * checkpoint.architecture.layers) as done, np.errstate(all="ignore"):
        sensitivity = measure_sensitivity(weights, ids, progress=lambda *_: done(1))
    better = candidates(plan)
    with step("choose what to keep", len(better)) as done:
        kept = best_within(*_room(plan, better), gains(plan, better, sensitivity, weights, done))
    return _with_kept(plan, (*plan.kept, *names_of(kept, plan.architecture)))


def gains(
    plan: Plan,
    better: TensorPlans,
    sensitivity: Mapping[ModelTensor, float],
    weights: Rows,
    done: Callable[[int], None],
) -> dict[ModelTensor, float]:
    """How many nats of KL divergence each matrix loses less when it is stored as `better` says.

    `sensitivity` is what a squared error of its products costs. `done` is told of each matrix.
    """
    found = {}
    with ThreadPoolExecutor() as workers:
        saved = workers.map(lambda tensor: _saved_error(weights, plan, better, tensor), better)
        for tensor, error in zip(better, saved, strict=True):
            found[tensor] = error * sensitivity[tensor]
            done(1)
    return found


def candidates(plan: Plan) -> TensorPlans:
    """The matrices that the build may choose to keep at more bits, as they are stored then."""
    if not plan.undecided:
        return {}
    native = facts_of(plan.target.engine).native_groups
    return improvable(plan.architecture, plan.recipe.quant, native)


def best_within(
    room: int, costs: Mapping[ModelTensor, int], gains: Mapping[ModelTensor, float]
) -> set[ModelTensor]:
    """What gains most of all that `room` has place for: by what each gains for its cost."""
    kept = set()
    for tensor in sorted(costs, key=lambda each: gains[each] / costs[each], reverse=True):
        if gains[tensor] >= 0 and costs[tensor] <= room:
            kept.add(tensor)
            room -= costs[tensor]
    return kept


def _room(plan: Plan, better: TensorPlans) -> tuple[int, Mapping[ModelTensor, int]]:
    """What there is to spend, weights of a share or bytes of a budget, and what each matrix takes of it."""
    quant, architecture = plan.recipe.quant, plan.architecture
    if quant.bits_per_weight is None:
        sizes = matrix_sizes(architecture)
        return weights_to_keep(architecture, quant.keep.auto), {tensor: sizes[tensor] for tensor in better}

    def size_of(tensors: TensorPlans) -> int:
        return exporter(plan.target.engine).artifact_bytes(architecture, tensors, plan.target, plan.context)

    room = bytes_to_spend(architecture, quant.bits_per_weight, size_of(plan.tensors))
    return room, added_bytes(plan.tensors, better, size_of)


def _saved_error(weights: Rows, plan: Plan, better: TensorPlans, tensor: ModelTensor) -> float:
    """By how much less a matrix's products are off with more bits: a mean square, summed over its rows."""
    own = plan.tensors[tensor]
    rows = sampled_rows(weights, tensor)
    more = replace(own, scheme=better[tensor].scheme)
    count = rows_of_a_token(plan.architecture, tensor)
    return (_error(rows, own) - _error(rows, more)) * count / len(rows)


def _error(rows: Floats, plan: TensorPlan) -> float:
    """The weighted squared error of rows, of which a plan folds only the columns."""
    if plan.column_factors is not None:
        rows = rows * plan.column_factors
    groups = Quantizer().quantize(rows, plan)
    return error_sums(rows, restored(groups, plan.quantised), plan.importance).weighted_squared_error


def _with_kept(plan: Plan, names: tuple[str, ...]) -> Plan:
    """The plan of a recipe that names what is kept, with what is known of each tensor's inputs."""
    quant = replace(plan.recipe.quant, keep=Keep(names), bits_per_weight=None)
    recipe = replace(plan.recipe, quant=quant)
    made = make_plan(
        plan.model,
        plan.architecture,
        recipe,
        plan.target,
        context=plan.context,
        accept_wrong_routing=bool(plan.deviation),
    )
    tensors = {
        tensor: replace(plan.tensors[tensor], scheme=own.scheme) for tensor, own in made.tensors.items()
    }
    return replace(made, tensors=tensors)
