"""The feed-forward of a layer in NumPy float32, each kind of it.

Sources: SwiGLU (arXiv:2002.05202); `gegelu` of the published `modeling_phi3_small.py`; transformers'
`modeling_phimoe.py`.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import ClippedGeglu, GatedSilu, MixtureOfExperts
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.reference.layers.projection import bias_rows, project, row_spans
from edgephi.reference.layers.routing import route
from edgephi.reference.weights import Weights
from edgephi.reference.workers import share

Floats = NDArray[np.float32]

Show = Callable[[str, Floats], None]
"""Called with the name of an activation and its values, which it may change in place."""

_QUICK_GELU = np.float32(1.702)  # x * sigmoid(1.702 x)


def feed_forward(weights: Weights, layer: int, x: Floats, workers: Executor, show: Show) -> Floats:
    """What a layer's feed-forward, whichever it is, makes of its input: [tokens, hidden] of both."""
    kind = weights.architecture.feed_forward
    run = _Run(weights, layer, workers, show)
    match kind:
        case GatedSilu():
            return run.dense(x, lambda gate, _: _silu(gate))
        case ClippedGeglu(limit=limit):
            return run.dense(x, lambda gate, up: _quick_gelu(gate, up, limit))
        case MixtureOfExperts():
            return run.experts(kind, x)


def _silu(gate: Floats) -> None:
    """silu(gate) in place of the gate."""
    with np.errstate(over="ignore"):  # exp overflows for a very negative gate, whose silu is 0
        gate /= 1 + np.exp(-gate)


def _quick_gelu(gate: Floats, up: Floats, limit: float) -> None:
    """The quick GELU of the clipped gate in its place, and up, clipped, plus 1 in the place of up."""
    np.minimum(gate, np.float32(limit), out=gate)
    with np.errstate(over="ignore"):
        gate /= 1 + np.exp(-_QUICK_GELU * gate)
    np.clip(up, -np.float32(limit), np.float32(limit), out=up)
    up += 1


@dataclass(frozen=True)
class _Run:
    """The feed-forward of one layer of one version of the weights."""

    weights: Weights
    layer: int
    workers: Executor
    show: Show

    def dense(self, x: Floats, activate: Callable[[Floats, Floats], None]) -> Floats:
        """down(activated gate * up), where `activate` changes both in place: [tokens, hidden] of both."""
        gated = self._gated(x, activate)
        return project(self.weights, ModelTensor(Role.DOWN, self.layer), gated, self.workers)

    def _gated(self, x: Floats, activate: Callable[[Floats, Floats], None]) -> Floats:
        """The activated gate times up: [tokens, hidden] -> [tokens, width].

        The matrix holds all gate rows, then all up rows; a worker takes the same rows of both, so that the
        product with the whole matrix is never held.
        """
        weights, show, tensor = self.weights, self.show, ModelTensor(Role.GATE_UP, self.layer)
        rows, columns = weights.architecture.tensor_shapes()[tensor]
        half = rows // 2
        bias = bias_rows(weights, tensor)
        y = np.empty((len(x), half), np.float32)

        def rows_of(start: int, stop: int) -> Floats:
            product: Floats = x @ weights.rows(tensor, start, stop).T  # [tokens, block]
            if bias is not None:
                product += bias[start:stop]
            return product

        def fill(span: tuple[int, int]) -> None:
            start, stop = span
            gate = rows_of(start, stop)
            show("gate", gate)
            up = rows_of(half + start, half + stop)
            activate(gate, up)
            show("activated", gate)
            show("up", up)
            np.multiply(gate, up, out=y[:, start:stop])

        share(self.workers, fill, row_spans(half, columns))
        show("gated", y)
        return y

    def experts(self, kind: MixtureOfExperts, x: Floats) -> Floats:
        """The sum of the answers of each token's experts: [tokens, hidden] of both.

        Experts that no token has are not read. What is between the two halves lies by experts, each with its
        tokens: [chosen * tokens, width].
        """
        router = ModelTensor(Role.ROUTER, self.layer)
        scores = project(self.weights, router, x, self.workers)  # [tokens, experts]
        self.show("router", scores)
        routing = route(scores, chosen=kind.chosen, jitter=kind.jitter)
        edges = np.cumsum([0, *np.bincount(routing.experts.ravel(), minlength=kind.experts)]).tolist()
        asked = [
            _Asked(expert, slice(start, stop), *routing.tokens_of(expert))
            for expert, (start, stop) in enumerate(pairwise(edges))
            if stop > start
        ]
        return self._answers(kind, asked, self._gated_by_experts(kind, asked, x), len(x))

    def _gated_by_experts(self, kind: MixtureOfExperts, asked: "list[_Asked]", x: Floats) -> Floats:
        """silu(gate) * up of each token's experts, by experts: [chosen * tokens, width]."""
        weights, show, width = self.weights, self.show, kind.width
        tensor = ModelTensor(Role.EXPERTS_GATE_UP, self.layer)
        y = np.empty((kind.chosen * len(x), width), np.float32)

        def fill(item: tuple[_Asked, tuple[int, int]]) -> None:
            own, (start, stop) = item
            inputs, first = x[own.tokens], 2 * width * own.expert
            gate = inputs @ weights.rows(tensor, first + start, first + stop).T  # [its tokens, block]
            show("gate", gate)
            up = inputs @ weights.rows(tensor, first + width + start, first + width + stop).T
            _silu(gate)
            show("activated", gate)
            show("up", up)
            np.multiply(gate, up, out=y[own.place, start:stop])

        spans = row_spans(width, x.shape[1])
        share(self.workers, fill, [(own, span) for own in asked for span in spans])
        show("gated", y)
        return y

    def _answers(self, kind: MixtureOfExperts, asked: "list[_Asked]", gated: Floats, tokens: int) -> Floats:
        """What the experts make of [chosen * tokens, width], weighted and summed: [tokens, hidden]."""
        weights, tensor = self.weights, ModelTensor(Role.EXPERTS_DOWN, self.layer)
        hidden = weights.architecture.hidden_size
        y = np.zeros((tokens, hidden), np.float32)

        def fill(span: tuple[int, int]) -> None:
            start, stop = span
            for own in asked:
                first = hidden * own.expert
                answers = gated[own.place] @ weights.rows(tensor, first + start, first + stop).T
                y[own.tokens, start:stop] += own.weights[:, None] * answers

        share(self.workers, fill, row_spans(hidden, kind.width))
        return y


@dataclass(frozen=True)
class _Asked:
    """An expert, its tokens and their weights, and where they lie among all of those of all experts."""

    expert: int
    place: slice
    tokens: NDArray[np.intp]
    weights: Floats
