"""How the HTP encodes activations: integers with one scale a tensor, whose range was measured before.

What does not fit into a range is cut off, so ranges are wider than what was measured; 16 bits can afford it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture
from edgephi.reference.activations import FINAL_NORM_INPUT, in_layer

Extremes = Mapping[str, tuple[float, float]]
"""The least and the largest value of each activation, by the names of `reference.activations`."""

MARGIN = 2.0
"""How much wider a 16-bit range is than what was measured."""

HIDDEN_BELOW = 20.0
"""How far below the least score those lie that a token does not see; exp(-20) is nothing in 16 bits."""

_NATIVE_FLOAT_FROM = 73
"""The first `htp_arch` with float16 and with 16-bit matrices on both sides of a product, measured."""


@dataclass(frozen=True)
class Encoding:
    """An integer tensor: value = (number - zero_point) * scale, with numbers of NumPy's type `kind`."""

    kind: str
    scale: float
    zero_point: int

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the largest number."""
        info = np.iinfo(self.kind)
        return int(info.min), int(info.max)

    def numbers(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """The integers nearest to `values`."""
        rounded = np.rint(values / np.float32(self.scale)) + self.zero_point
        numbers: NDArray[Any] = np.clip(rounded, *self.limits).astype(self.kind)
        return numbers

    def round(self, values: NDArray[np.float32]) -> None:
        """Replace `values` by what the encoding makes of them."""
        scale = np.float32(self.scale)
        low, high = self.limits
        values /= scale
        np.rint(values, out=values)
        np.clip(values, low - self.zero_point, high - self.zero_point, out=values)
        values *= scale


@dataclass(frozen=True)
class Precision:
    """What a generation of the HTP computes in.

    float_residual: the residual stream and the norms are float16, else uint16 · cache: type of keys and
    values
    """

    float_residual: bool
    cache: Literal["int16", "uint8"]


def precision_of(htp_arch: int) -> Precision:
    """The best that an HTP can do: those before 73 have no float16, and multiply 16 by 8 bits only."""
    modern = htp_arch >= _NATIVE_FLOAT_FROM
    return Precision(float_residual=modern, cache="int16" if modern else "uint8")


def unsigned(low: float, high: float) -> Encoding:
    """The uint16 encoding of a range, which is made to hold zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = _float32((high - low) / 65535) or 1.0
    return Encoding("uint16", scale, round(-low / scale))


def symmetric(largest: float, kind: str) -> Encoding:
    """The encoding of -largest to largest with zero in the middle of a type."""
    middle, steps = (0, 32767) if kind == "int16" else (128, 127)
    return Encoding(kind, _float32(largest / steps) or 1.0, middle)


def encodings(extremes: Extremes, architecture: Architecture, precision: Precision) -> dict[str, Encoding]:
    """An encoding for each activation that the graphs keep as integers."""
    found = {name: unsigned(MARGIN * low, MARGIN * high) for name, (low, high) in extremes.items()}
    for layer in range(architecture.layers):
        attention = in_layer(layer, "self_attn.")
        found[attention + "probabilities"] = unsigned(0, 1)
        low, high = (MARGIN * each for each in extremes[attention + "scores"])
        found[attention + "masked_scores"] = unsigned(min(low, 0.0) - HIDDEN_BELOW, high)
        for name in ("rotated_key", "value"):
            largest = max(abs(each) for each in extremes[attention + name])
            wider = MARGIN if precision.cache == "int16" else 1.0
            found[attention + name] = symmetric(wider * largest, precision.cache)
    if precision.float_residual:
        for name in residual_names(architecture):
            del found[name]
    return found


def residual_names(architecture: Architecture) -> list[str]:
    """The activations that are the residual stream."""
    layers = range(architecture.layers)
    return [in_layer(layer, part) for layer in layers for part in ("input", "attended")] + [FINAL_NORM_INPUT]


def _float32(number: float) -> float:
    return float(np.float32(number))
