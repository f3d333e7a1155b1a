"""Errors of a model with a matrix of each kind in each layer, as a build finds them."""

from dataclasses import replace

from edgephi.bundle.quantisation import SCHEMA, Quantisation, QuantisedTensor

LAYERS = 12
_KINDS = {
    "query, key and value": ("self_attn.qkv_proj", 12),
    "attention output": ("self_attn.o_proj", 4),
    "gate and up": ("mlp.gate_up_proj", 24),
    "down": ("mlp.down_proj", 12),
}
WORST = "model.layers.7.mlp.down_proj"


def quantised() -> Quantisation:
    """One matrix is much worse than all others in its output, and no worse in its weights."""
    tensors = [
        QuantisedTensor("model.embed_tokens", "embedding", None, 65536, 69632, 8, 32, True, "free", 4e-5)
    ]
    for layer in range(LAYERS):
        for role, (kind, size) in _KINDS.items():
            name = f"model.layers.{layer}.{kind}"
            weights, output = 4096 * size, size * (500.0 if name == WORST else 1 + layer / 8)
            errors = (0.006 + layer / 1e4, 0.004 + size / 1e4, output)
            tensors.append(
                QuantisedTensor(name, role, layer, weights, weights // 8 * 5, 4, 32, True, "free", *errors)
            )
    return Quantisation(SCHEMA, tuple(tensors))


def unweighted(quantisation: Quantisation) -> Quantisation:
    """The same by a method that looks at no inputs."""
    tensors = (
        replace(tensor, weighted_relative_squared_error=None, weighted_squared_error=None)
        for tensor in quantisation.tensors
    )
    return replace(quantisation, tensors=tuple(tensors))
