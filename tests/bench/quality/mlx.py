"""MLX: its own `quantize` in bfloat16, as `mlx_lm.convert` calls it, with the choices of its recipes."""

import functools
import time

import numpy as np

from tests.bench.quality.harness import EMBEDDING, HEAD, Floats
from tests.bench.quality.quantised import Quantised, Subject, Way, layer_of, more_bits, with_vocabulary

_MANY_BITS = 6


def ways() -> list[Way]:
    """What `mlx_lm.convert -q` does by default, and two finer settings."""
    return [
        Way("mlx 4 bit g64", functools.partial(_quantise, group_size=64), "mlx"),
        Way("mlx 4 bit g32", functools.partial(_quantise, group_size=32), "mlx"),
        Way("mlx mixed_4_6 g64", functools.partial(_quantise, group_size=64, mixed=True), "mlx"),
    ]


def _quantise(subject: Subject, group_size: int, *, mixed: bool = False) -> Quantised:
    start = time.perf_counter()
    weights: dict[str, Floats] = dict(subject.original)
    bits = {}
    vocabulary = [EMBEDDING] if subject.harness.tied else [EMBEDDING, HEAD]
    for name in [*subject.matrices, *vocabulary]:
        own = _MANY_BITS if mixed and _has_many(name, subject.layers) else 4
        weights[name] = _dequantised(subject.original[name], own, group_size)
        bits[name] = own + 32 / group_size  # a scale and a bias
    whole = with_vocabulary(weights, weights[EMBEDDING]) if subject.harness.tied else weights
    return Quantised(whole, *subject.bits(bits), time.perf_counter() - start)


def _has_many(name: str, layers: int) -> bool:
    """Whether the recipe gives a matrix more bits. It looks for `v_proj`, which `qkv_proj` is to it too."""
    if name == HEAD:
        return True
    return (
        name != EMBEDDING and ("v_proj" in name or "down_proj" in name) and more_bits(layer_of(name), layers)
    )


def _dequantised(weights: Floats, bits: int, group_size: int) -> Floats:
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    matrix = mx.array(weights).astype(mx.bfloat16)
    codes, scales, biases = mx.quantize(matrix, group_size=group_size, bits=bits)
    restored = mx.dequantize(codes, scales, biases, group_size=group_size, bits=bits)
    return np.array(restored.astype(mx.float32))
