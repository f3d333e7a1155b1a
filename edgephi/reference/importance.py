"""How much each input of a matrix matters: its mean square over a text, from one pass of the reference.

It is the diagonal of the second moments that GPTQ (arXiv:2210.17323) uses, what AWQ (arXiv:2306.00978) looks
for outliers in, and llama.cpp's "importance matrix". Some hundred tokens are enough: it only has to tell the
few channels that carry most of the energy from the others.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.reference.activations import FINAL_NORM_OUTPUT, in_layer
from edgephi.reference.forward import Progress, final_hidden_states
from edgephi.reference.weights import Weights

Importance = Mapping[ModelTensor, NDArray[np.float32]]
"""The mean square of each input of a matrix, float32 [columns]; of every matrix that multiplies."""

# Another order of sums, by another processor's BLAS, say, must not show in the codes.
_MANTISSA_BITS = 8

_INPUTS = {
    Role.QUERY_KEY_VALUE: "self_attn.input",
    Role.ATTENTION_OUTPUT: "self_attn.mixed",
    Role.GATE_UP: "mlp.input",
    Role.DOWN: "mlp.gated",
}
_EXPERTS_INPUTS = {Role.EXPERTS_GATE_UP: "mlp.input", Role.EXPERTS_DOWN: "mlp.gated"}


def matrix_inputs(architecture: Architecture) -> dict[str, ModelTensor]:
    """Every matrix that multiplies, by the name of the activation that it multiplies.

    The matrices of a layer's experts are one. A router is none of them: its weights stay what they are.
    """
    shapes = architecture.tensor_shapes()
    inputs = {
        in_layer(layer, part): ModelTensor(role, layer)
        for layer in range(architecture.layers)
        for role, part in (_INPUTS | _EXPERTS_INPUTS).items()
        if ModelTensor(role, layer) in shapes
    }
    return {**inputs, FINAL_NORM_OUTPUT: architecture.head}


def measure_importance(
    weights: Weights, passages: Sequence[Sequence[int]], *, progress: Progress | None = None
) -> dict[ModelTensor, NDArray[np.float32]]:
    """The importance of the inputs of every matrix on a text: `passages` as `final_hidden_states` takes them.

    The head's is that of the embedding, where these are one matrix. Rounded to 8 bits, and never zero.
    """
    observed = _Observed(weights, matrix_inputs(weights.architecture))
    final_hidden_states([observed], passages, progress=progress)
    tokens = sum(map(len, passages))
    return {tensor: _rounded(sums / tokens) for tensor, sums in observed.sums.items()}


def hash_of(importance: Importance) -> str:
    """The SHA-256 of all of it, by which two builds know that they weighed alike."""
    digest = hashlib.sha256()
    for tensor in sorted(importance, key=lambda each: (each.layer is None, each.layer, each.role.value)):
        digest.update(str(tensor).encode())
        digest.update(importance[tensor].astype("<f4").tobytes())
    return digest.hexdigest()


class _Observed:
    """Weights that sum the squares of the matrices' inputs that they are shown."""

    def __init__(self, weights: Weights, inputs: Mapping[str, ModelTensor]) -> None:
        self.architecture: Architecture = weights.architecture
        self.rows = weights.rows
        self.sums: dict[ModelTensor, NDArray[np.float64]] = {}
        self._inputs = inputs

    def activation(self, name: str, values: NDArray[np.float32]) -> None:
        """Sum the squares of an input [tokens, ...], which is shown once and as a whole."""
        tensor = self._inputs.get(name)
        if tensor is not None:
            columns = values.reshape(len(values), -1)
            self.sums[tensor] = np.square(columns).sum(axis=0, dtype=np.float64)


def _rounded(mean_squares: NDArray[np.float64]) -> NDArray[np.float32]:
    """To a few bits, and raised where a channel was silent, for another text may wake it."""
    raised = np.maximum(mean_squares, max(mean_squares.mean() * 1e-6, float(np.finfo(np.float32).tiny)))
    mantissa, exponent = np.frexp(raised)
    steps = 1 << _MANTISSA_BITS
    rounded: NDArray[np.float32] = np.ldexp(np.rint(mantissa * steps) / steps, exponent).astype(np.float32)
    return rounded
