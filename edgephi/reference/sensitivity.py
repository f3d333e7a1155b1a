"""What an error in the products of a matrix does to a model's answers: nats for a unit of squared error.

Measured on few tokens, with noise in the place of errors:

- What an error in the residual stream does: noise is added to the stream before some of the layers, and what
  the model then says is compared. It is much the same before most layers, and several times as much before
  the last norm.
- How much of an error in query, key and value, or in gate and up, reaches the stream: there is noise in their
  weights, layer by layer, beside the same layer without any. The products of the two other matrices are added
  to the stream as they are.

An error counts by its share of the stream's energy, which grows by orders of magnitude from layer to layer.
That energy is the median over tokens: a few of them carry massive activations (arXiv:2402.17762).

On a trained model of 135 M weights this foretells what rounding one of its matrices alone costs within a
factor of two for most, and of three for the others. The errors themselves, absolute or relative, do not.
"""

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture, MixtureOfExperts
from edgephi.checkpoint.roles import EXPERTS, ModelTensor, Role
from edgephi.reference.activations import FINAL_NORM_INPUT, in_layer
from edgephi.reference.comparison.divergence import token_divergences
from edgephi.reference.forward import Begun, Progress, final_hidden_states, logits_blocks
from edgephi.reference.weights import Weights

Floats = NDArray[np.float32]

STREAM_NOISE = 1e-3
"""Of the stream's energy: so little that twice as much does twice as much to the answers."""

PRODUCT_NOISE = 3e-3
"""Of the energy of a matrix's products: about what rounding to 4 bits makes."""

_LOGITS_TOKENS = 64  # whose logits are held at once, twice: 102 MB with Phi-4-mini's words
_NOISY = {
    "self_attn.input": (Role.QUERY_KEY_VALUE,),
    "mlp.input": (Role.GATE_UP, Role.EXPERTS_GATE_UP),
}
"""The matrices whose noise does not go into the stream as it is, by what goes into them."""


def measure_sensitivity(
    weights: Weights, passages: Sequence[Sequence[int]], *, progress: Progress | None = None
) -> dict[ModelTensor, float]:
    """Of every matrix of a layer, what its error costs: mean KL divergence in nats for a squared error of 1.

    The squared error is that of all products of a token, in the mean over tokens; of experts, of those that
    it has (`rows_of_a_token`). `passages` as `final_hidden_states` takes them: a hundred tokens in all are
    enough. `progress` is told of the steps of
    one pass; as much work again follows it.
    """
    architecture = weights.architecture
    plain = _Plain(weights, noise_places(architecture.layers))
    noisy = _Noisy(plain)
    (final, _) = final_hidden_states([plain, noisy], passages, progress=progress)
    costs = {
        place: _cost_of_noise(weights, passages, Begun(place, (stream,)), final)
        for place, stream in plain.kept.items()
    }
    found = {}
    shapes = architecture.tensor_shapes()
    for layer in range(architecture.layers):
        for role, halves in _PLACES.items():
            tensor = ModelTensor(role, layer)
            if tensor not in shapes:
                continue
            reach = noisy.reach.get(tensor) or 1 / plain.energy[layer, halves]
            # A few digits: the last ones of a sum depend on the processor.
            found[tensor] = float(f"{reach * _between(costs, layer + halves / 2):.3g}")
    return found


# Where the products of each matrix arrive in the stream, in halves of a layer from its beginning.
_PLACES = {
    Role.QUERY_KEY_VALUE: 1,
    Role.ATTENTION_OUTPUT: 1,
    Role.GATE_UP: 2,
    Role.DOWN: 2,
    Role.EXPERTS_GATE_UP: 2,
    Role.EXPERTS_DOWN: 2,
}


def rows_of_a_token(architecture: Architecture, tensor: ModelTensor) -> float:
    """How many rows of a matrix a token is multiplied with: of experts, those of as many as it has.

    As if all experts had as many tokens as each other.
    """
    rows = math.prod(architecture.tensor_shapes()[tensor][:-1])
    feed_forward = architecture.feed_forward
    if tensor.role in EXPERTS and isinstance(feed_forward, MixtureOfExperts):
        return rows * feed_forward.chosen / feed_forward.experts
    return rows


def noise_places(layers: int) -> tuple[int, ...]:
    """The layers before which noise is added to the stream, the last norm among them: closer to the end."""
    places = {1, layers}
    step = 1
    while layers - step > 1:
        places.add(layers - step)
        step *= 2
    return tuple(sorted(places))


@dataclass
class _Plain:
    """Weights that remember the residual stream as it goes by."""

    weights: Weights
    places: tuple[int, ...]
    kept: dict[int, Floats] = field(default_factory=dict)  # before the layers of `places`
    energy: dict[tuple[int, int], float] = field(default_factory=dict)  # after each half of each layer
    latest: dict[int, Floats] = field(default_factory=dict)  # of this layer: before it, and after attention

    @property
    def architecture(self) -> Architecture:
        """The shape of the model."""
        return self.weights.architecture

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> Floats:
        """Rows of the weights."""
        return self.weights.rows(tensor, start, stop)

    def activation(self, name: str, values: Floats) -> None:
        """Remember the stream [tokens, hidden]."""
        place = _place(name, self.architecture.layers)
        if place is None:
            return
        layer, halves = place
        self.latest[halves] = values.copy()
        self.energy[layer - (not halves), halves or 2] = float(np.median(_energies(values)))
        if not halves and layer in self.places:
            self.kept[layer] = values.copy()


@dataclass
class _Noisy:
    """Weights with noise in two matrices of each layer, whose stream begins each half of it without any.

    They go beside plain ones, a layer after them. An error is as large as its input: so noise in a column is
    the smaller the larger that is, as codes are found.
    """

    plain: _Plain
    reach: dict[ModelTensor, float] = field(default_factory=dict)
    columns: Floats = field(default_factory=lambda: np.empty(0, np.float32))  # of the matrix that comes next
    noise: float = 0.0  # the mean square of what it adds to the products of a token
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def architecture(self) -> Architecture:
        """The shape of the model."""
        return self.plain.architecture

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> Floats:
        """Rows of the weights, with noise in those of two matrices."""
        rows = self.plain.rows(tensor, start, stop)
        if not any(tensor.role in roles for roles in _NOISY.values()):
            return rows
        energies = PRODUCT_NOISE * (np.square(rows) @ self.columns**-2) / rows.shape[1]  # of each row's noise
        noise = _signs(rows.shape, (tensor.layer or 0, start))
        noise *= np.sqrt(energies)[:, None]
        noise *= self.columns
        whole = math.prod(self.architecture.tensor_shapes()[tensor][:-1])
        share = rows_of_a_token(self.architecture, tensor) / whole
        with self.lock:
            self.noise += float(energies.sum(dtype=np.float64)) * rows.shape[1] * share
        return rows + noise

    def activation(self, name: str, values: Floats) -> None:
        """Look at what goes into such a matrix; measure what it makes of the stream, and take that out."""
        place = _place(name, self.architecture.layers)
        if place is not None:
            layer, halves = place
            if halves or layer:
                self._measure(self._before(layer, halves), values, self.plain.latest[halves])
            values[...] = self.plain.latest[halves]
        elif _of_layer(name)[1] in _NOISY:
            mean_squares = np.square(values).mean(axis=0, dtype=np.float64)
            floor = max(mean_squares.mean() * 1e-6, float(np.finfo(np.float32).tiny))
            self.columns = (1 / np.sqrt(np.maximum(mean_squares, floor))).astype(np.float32)
            self.noise = 0.0

    def _before(self, layer: int, halves: int) -> ModelTensor:
        """The matrix with noise that comes before a place in the stream."""
        part, of_layer = ("self_attn.input", layer) if halves else ("mlp.input", layer - 1)
        shapes = self.architecture.tensor_shapes()
        return next(each for role in _NOISY[part] if (each := ModelTensor(role, of_layer)) in shapes)

    def _measure(self, tensor: ModelTensor, found: Floats, expected: Floats) -> None:
        shares = _energies(found - expected) / _energies(expected)
        self.reach[tensor] = float(shares.mean()) / self.noise


def _cost_of_noise(weights: Weights, passages: Sequence[Sequence[int]], begun: Begun, final: Floats) -> float:
    """What noise in the stream costs, in nats for a share of 1 of its energy; `final` is without any."""
    (stream,) = begun.hidden
    energy = float(np.median(_energies(stream)))
    noise = _random(stream.shape, (begun.layer,))
    noise *= np.float32(np.sqrt(STREAM_NOISE * energy / stream.shape[1]))
    (noisy,) = final_hidden_states([weights], passages, begun=Begun(begun.layer, (stream + noise,)))
    blocks = zip(
        logits_blocks(weights, final, tokens_per_block=_LOGITS_TOKENS),
        logits_blocks(weights, noisy, tokens_per_block=_LOGITS_TOKENS),
        strict=True,
    )
    (divergences,) = token_divergences(blocks, np.full(len(final), -1), pairs=[(0, 1)])
    return float(divergences.kl.mean()) / STREAM_NOISE


def _between(costs: Mapping[int, float], place: float) -> float:
    """The cost at a place between those where it was measured."""
    tiny = float(np.finfo(np.float32).tiny)
    return float(np.exp(np.interp(place, [*costs], [np.log(max(cost, tiny)) for cost in costs.values()])))


def _place(name: str, layers: int) -> tuple[int, int] | None:
    """The layer, and 0 before it or 1 after its attention, where a name means the stream."""
    if name == FINAL_NORM_INPUT:
        return layers, 0
    layer, part = _of_layer(name)
    return (layer, ("input", "attended").index(part)) if part in ("input", "attended") else None


def _of_layer(name: str) -> tuple[int, str]:
    """The layer and the part of it that a name means: the opposite of `in_layer`."""
    prefix = in_layer(0, "").split("0")[0]
    if not name.startswith(prefix):
        return -1, name
    layer, part = name.removeprefix(prefix).split(".", 1)
    return int(layer), part


def _energies(stream: Floats) -> NDArray[np.float64]:
    """The squared length of each token's vector: [tokens, hidden] -> [tokens]."""
    energies: NDArray[np.float64] = np.einsum("th,th->t", stream, stream, dtype=np.float64)
    return energies


def _signs(shape: tuple[int, ...], seed: tuple[int, ...]) -> Floats:
    """1 or -1, the same each time."""
    count = int(np.prod(shape))
    bits = np.unpackbits(
        np.frombuffer(np.random.default_rng(seed).bytes(-(-count // 8)), np.uint8), count=count
    )
    signs = bits.reshape(shape).astype(np.float32)
    signs *= 2
    signs -= 1
    return signs


def _random(shape: tuple[int, ...], seed: tuple[int, ...]) -> Floats:
    """Normal noise, the same each time."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)
