"""Outlier channels scaled up, and their scale folded into what comes before: the same function, better codes.

A matrix times s in the columns, whose inputs are divided by s, computes the same. A channel with large inputs
that is scaled up takes more of its group's codes, so that its error, which counts most, shrinks; the others
lose little as long as it is one of few. What divides the inputs is there already: the norm's weights (and
its bias) before query, key and value and before gate and up, the rows of up before down, the last norm before
the head. The network has nothing new, and every engine computes it as before. A router, which has the inputs
of its experts, is multiplied as they are. Nothing before the down of experts, or of a clipped GEGLU, can
divide its inputs.

s is (mean square of the input / the median one)**(a / 2), at least 1, at most 64, by which norms in float16
can be divided. The power a is chosen for each matrix as the one with the least weighted error on some of its
rows. Source: AWQ (arXiv:2306.00978), there with means of |x| and for all channels.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import (
    Architecture,
    ClippedGeglu,
    GatedSilu,
    LayerNorm,
    MixtureOfExperts,
)
from edgephi.checkpoint.roles import FINAL_NORM, HEAD, ModelTensor, Role, bias_of
from edgephi.quantize.groups import NotFiniteError, error_sums, restored
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.tensor_plan import TensorPlan, TensorPlans

Floats = NDArray[np.float32]

POWERS = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8)
LARGEST_SCALE = 64.0
SAMPLED_ROWS = 192
"""Of each matrix, spread evenly, to compare powers on."""

_DAMPING = np.float32(1e-3)
"""Of the mean importance, added to all: on another text a channel may be louder than it was on this one."""


Rounded = Callable[[Floats, TensorPlan], Floats]
"""Rows [rows, columns] as they are once they were quantised by a plan; called in several threads at once."""


class Rows(Protocol):
    """A model's weights, a few rows at a time; several threads ask at once."""

    @property
    def architecture(self) -> Architecture:
        """The shape of the model."""

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> Floats:
        """Rows start:stop of a matrix, float32 [stop - start, columns], or that part of a vector."""


@dataclass(frozen=True)
class _Fold:
    """A matrix, and the rows from `first` on of the tensors before it that divide its inputs.

    `beside` are other matrices with the same inputs, of plain numbers.
    """

    matrix: ModelTensor
    before: tuple[ModelTensor, ...]
    first: int = 0
    beside: tuple[ModelTensor, ...] = ()


def weigh(
    plans: TensorPlans,
    importance: Mapping[ModelTensor, Floats],
    weights: Rows,
    *,
    rounded: Rounded | None = None,
    threads: int | None = None,
    done: Callable[[int], None] = lambda _: None,
) -> dict[ModelTensor, TensorPlan]:
    """The plans with an importance for every matrix that has one, and with the folds that serve it best.

    `rounded` quantises what folds are tried on, in `threads` of them at once; by default this process does.
    `done` is told of each fold that was chosen; there are `fold_count` of them. Raises NotFiniteError, naming
    the matrix, for weights that cannot be quantised.
    """
    folds = _folds(weights.architecture)
    quantised = rounded or _rounded
    with ThreadPoolExecutor(threads) as workers:
        chosen = workers.map(
            lambda fold: _scale(weights, plans[fold.matrix], fold, importance[fold.matrix], quantised), folds
        )
        scales = []
        for scale in chosen:
            scales.append(scale)
            done(1)
    weighed = {
        tensor: replace(plan, importance=_damped(importance.get(tensor))) for tensor, plan in plans.items()
    }
    found = {fold.matrix: scale for fold, scale in zip(folds, scales, strict=True) if scale is not None}
    for fold in folds:
        for matrix in fold.beside if fold.matrix in found else ():
            weighed[matrix] = replace(weighed[matrix], column_factors=found[fold.matrix])
    for matrix, scale in found.items():
        damped = _damped(_divided(importance[matrix], scale))
        weighed[matrix] = replace(weighed[matrix], column_factors=scale, importance=damped)
    for before, factors in row_factors(found, weights.architecture).items():
        weighed[before] = replace(weighed[before], row_factors=factors)
    return weighed


def row_factors(
    column_factors: Mapping[ModelTensor, Floats], architecture: Architecture
) -> dict[ModelTensor, Floats]:
    """What the tensors before are multiplied by, float32 [rows], when matrices are by `column_factors`."""
    shapes, rows = architecture.tensor_shapes(), {}
    for fold in _folds(architecture):
        scale = column_factors.get(fold.matrix)
        if scale is not None:
            for before in fold.before:
                factors = np.ones(shapes[before][0], np.float32)
                factors[fold.first : fold.first + len(scale)] = 1 / scale
                rows[before] = factors
    return rows


def fold_count(architecture: Architecture) -> int:
    """How many folds there are to choose."""
    return len(_folds(architecture))


def _folds(architecture: Architecture) -> list[_Fold]:
    """Every matrix whose inputs can be divided by what is before it."""
    folds = [fold for layer in range(architecture.layers) for fold in _folds_of(architecture, layer)]
    # A tied head is the embedding too, whose rows are the inputs of the first layer.
    return folds if architecture.tied_embeddings else [*folds, _Fold(HEAD, _norm(architecture, FINAL_NORM))]


def _folds_of(architecture: Architecture, layer: int) -> Iterator[_Fold]:
    attention_norm = _norm(architecture, ModelTensor(Role.ATTENTION_NORM, layer))
    feed_forward_norm = _norm(architecture, ModelTensor(Role.FEED_FORWARD_NORM, layer))
    gate_up, down = ModelTensor(Role.GATE_UP, layer), ModelTensor(Role.DOWN, layer)
    yield _Fold(ModelTensor(Role.QUERY_KEY_VALUE, layer), attention_norm)
    match architecture.feed_forward:
        case GatedSilu(width=width):
            yield _Fold(gate_up, feed_forward_norm)
            yield _Fold(down, (gate_up,), first=width)
        case ClippedGeglu():
            yield _Fold(gate_up, feed_forward_norm)
        case MixtureOfExperts():
            experts = ModelTensor(Role.EXPERTS_GATE_UP, layer)
            yield _Fold(experts, feed_forward_norm, beside=(ModelTensor(Role.ROUTER, layer),))


def _norm(architecture: Architecture, norm: ModelTensor) -> tuple[ModelTensor, ...]:
    """What a norm scales its numbers by, and what it adds to them where it does."""
    return (norm, bias_of(norm)) if isinstance(architecture.norm, LayerNorm) else (norm,)


def _rounded(rows: Floats, plan: TensorPlan) -> Floats:
    return restored(Quantizer().quantize(rows, plan), plan.quantised)


def _scale(
    weights: Rows, plan: TensorPlan, fold: _Fold, importance: Floats, rounded: Rounded
) -> Floats | None:
    """What the matrix's columns are best multiplied by, float32 [columns]; None for nothing."""
    if plan.scheme is None or plan.scheme.bits == 8:
        return None
    rows = sampled_rows(weights, fold.matrix)
    least, best = np.inf, None
    for power in POWERS:
        scale = channel_scale(importance, power)
        scaled = _divided(importance, scale)
        multiplied = rows * scale
        try:
            found = rounded(multiplied, replace(plan, importance=_damped(scaled)))
        except NotFiniteError as cause:
            raise NotFiniteError(f"{cause}, in {fold.matrix}") from None
        error = error_sums(multiplied, found, scaled).weighted_squared_error
        if error < least:
            least, best = error, scale if power else None
    return best


def channel_scale(importance: Floats, power: float) -> Floats:
    """(importance / its median)**(power / 2), from 1 to 64, rounded to 8 bits: float32 [columns]."""
    outlying = np.maximum(importance / np.median(importance), 1).astype(np.float64)
    scale = np.minimum(outlying ** (power / 2), LARGEST_SCALE)
    mantissa, exponent = np.frexp(scale)
    rounded: Floats = np.ldexp(np.rint(mantissa * 256) / 256, exponent).astype(np.float32)
    return rounded


def _divided(importance: Floats, scale: Floats) -> Floats:
    """The importance of inputs that are divided by `scale`, both [columns]."""
    divided: Floats = (importance / np.square(scale)).astype(np.float32)
    return divided


def _damped(importance: Floats | None) -> Floats | None:
    if importance is None:
        return None
    damped: Floats = importance + importance.mean(dtype=np.float64).astype(np.float32) * _DAMPING
    return damped


def sampled_rows(weights: Rows, matrix: ModelTensor) -> Floats:
    """SAMPLED_ROWS rows of a matrix, spread evenly, or all of them: [rows, columns]."""
    count = math.prod(weights.architecture.tensor_shapes()[matrix][:-1])  # of all matrices of a stack
    places = np.unique(np.linspace(0, count - 1, min(SAMPLED_ROWS, count)).astype(int))
    return np.concatenate([weights.rows(matrix, int(row), int(row) + 1) for row in places])


@dataclass(frozen=True)
class FoldedWeights:
    """The weights of a model as its plans fold them: what an artifact holds, not yet quantised."""

    weights: Rows
    plans: TensorPlans

    @property
    def architecture(self) -> Architecture:
        """The shape of the model, which folding does not change."""
        return self.weights.architecture

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> Floats:
        """Rows start:stop of a tensor, float32 [stop - start, columns], or that part of a vector."""
        return self.plans[tensor].of_rows(start, stop).factored(self.weights.rows(tensor, start, stop))
