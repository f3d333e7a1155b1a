"""What a way to quantise gives to the harness, and what it gets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.bench.quality.harness import EMBEDDING, HEAD, Arrays, Floats, Harness, Logits
from tests.bench.quality.text import Text


@dataclass(frozen=True)
class Quantised:
    """A quantised model: its weights, dequantised, or what computes with them; and what it took.

    `bits` of the whole artifact for each weight of the model, `linear_bits` of the layers' matrices alone.
    `peak_bytes` where the quantiser ran as a process of its own.
    """

    model: Arrays | Logits
    bits: float
    linear_bits: float
    seconds: float
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Subject:
    """What is quantised: a checkpoint, and text to calibrate with. `scratch` is a folder for big files."""

    checkpoint: Path
    harness: Harness
    text: Text
    scratch: Path

    @property
    def original(self) -> Arrays:
        """Its weights."""
        return self.harness.original

    @property
    def matrices(self) -> list[str]:
        """The names of all matrices of its layers."""
        return [name for name in self.original if is_linear(name, self.original[name])]

    @property
    def layers(self) -> int:
        """How many layers it has."""
        return 1 + max(layer_of(name) for name in self.matrices)

    @cached_property
    def inputs(self) -> dict[str, Floats]:
        """Mean squares of the inputs of all matrices, over the text to calibrate with."""
        return self.harness.inputs(self.text.calibration)

    def bits(self, of: Mapping[str, float]) -> tuple[float, float]:
        """Bits a weight, of the whole and of the linear layers, from those of every matrix that is stored.

        A tied head is stored once, and counted once.
        """
        stored = {*self.matrices, EMBEDDING, *([] if self.harness.tied else [HEAD])}
        if extra := set(of) - stored - {HEAD}:
            raise ValueError(f"expected bits of the model's matrices, found them of {extra}")
        weights = sum(self.original[name].size for name in stored)
        linear = {name: of[name] * self.original[name].size for name in self.matrices}
        count = sum(self.original[name].size for name in self.matrices)
        vocabulary = sum(of[name] * self.original[name].size for name in (EMBEDDING, HEAD) if name in of)
        return (sum(linear.values()) + vocabulary) / weights, sum(linear.values()) / count


@dataclass(frozen=True)
class Way:
    """A way to quantise, `who` in the table. `package` is the peer's, whose version decides what it does."""

    who: str
    quantise: Callable[[Subject], Quantised]
    package: str | None = None


def is_linear(name: str, weights: Floats) -> bool:
    """Whether a weight is a matrix of a layer."""
    return weights.ndim == 2 and name not in (EMBEDDING, HEAD)


def layer_of(name: str) -> int:
    """The layer that a matrix belongs to."""
    return int(name.split(".")[2])


def more_bits(layer: int, layers: int) -> bool:
    """Whether a layer is among those that mixtures give more bits: the outer eighths, and every third."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def with_vocabulary(weights: Arrays, vocabulary: Floats) -> Arrays:
    """The same weights with one matrix for embedding and head."""
    return {**weights, EMBEDDING: vocabulary, HEAD: vocabulary}


Ways = Sequence[Way]
