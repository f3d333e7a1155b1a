"""What a certificate's numbers mean: a word for each, and between which numbers it stands.

The bounds are provisional. They come from published measurements of other models, because nobody has
measured these models' own weights with this text yet; a build past them is said to be bad, not refused.
Sources: llama.cpp's KL divergences of Llama-3-8B (its quantize tool's page: Q6_K 0.0055 with 96 % top-1,
Q4_K_M 0.031 with 92 %, Q4_0 0.072 and 7.5 % more perplexity, Q3_K_M 0.10, Q2_K 0.45 with 71 %), and Apple's
word perplexities of Phi-3-mini at 4.5 bits without data (19 % more). The same format costs a model of 135
million parameters five times as much KL as one of 8 billion, hence a scale of its own for small ones.
"""

from dataclasses import dataclass
from typing import Literal

from edgephi.bundle.certificate import QualityGate

Word = Literal["excellent", "good", "noticeable", "bad"]

_SMALL_BELOW = 1_000_000_000  # parameters
_COARSE_GROUP = 128
# Of an export error, which should be rounding noise.
_EXPORT_EXCELLENT, _EXPORT_GOOD = 0.1, 0.5


@dataclass(frozen=True)
class Bounds:
    """The last number that is excellent, good, and noticeable; what is worse than that is bad."""

    excellent: float
    good: float
    noticeable: float

    def word(self, number: float) -> Word:
        """The word for a number. Larger is better where `excellent` is the largest of the bounds."""
        sign = -1 if self.excellent > self.noticeable else 1
        if sign * number <= sign * self.excellent:
            return "excellent"
        if sign * number <= sign * self.good:
            return "good"
        return "noticeable" if sign * number <= sign * self.noticeable else "bad"


@dataclass(frozen=True)
class Scale:
    """The bounds of a quantised model: mean KL in nats, top-1 agreement, and the ratio of perplexities."""

    kl: Bounds
    top1: Bounds
    perplexity_ratio: Bounds


_SMALL = Scale(
    kl=Bounds(0.02, 0.10, 0.30),
    top1=Bounds(0.92, 0.82, 0.70),
    perplexity_ratio=Bounds(1.02, 1.10, 1.35),
)
_LARGE = Scale(
    kl=Bounds(0.01, 0.05, 0.15),
    top1=Bounds(0.95, 0.91, 0.85),
    perplexity_ratio=Bounds(1.01, 1.05, 1.15),
)
_LARGE_COARSE = Scale(
    kl=Bounds(0.01, 0.05, 0.30),
    top1=Bounds(0.95, 0.91, 0.85),
    perplexity_ratio=Bounds(1.01, 1.05, 1.15),
)


def provisional_scale(parameters: int, group_size: int) -> Scale:
    """The scale of a model with so many parameters, quantised in groups of so many weights."""
    if parameters < _SMALL_BELOW:
        return _SMALL
    return _LARGE_COARSE if group_size >= _COARSE_GROUP else _LARGE


def export_bounds(gate: QualityGate) -> Bounds:
    """The bounds of an export error's mean KL: a tenth and half of what the gate allows, and that itself."""
    most = gate.export_error_kl
    return Bounds(_EXPORT_EXCELLENT * most, _EXPORT_GOOD * most, most)
