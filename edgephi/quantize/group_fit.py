"""The scale and the minimum of each group by weighted least squares, over many candidates.

A weight x of a group becomes `scale * code - minimum`. Given the codes, scale and minimum that make the sum
of importance * (weight - x)**2 least come from two linear equations; given these two, the nearest codes are
best. A search goes to and fro between them. Where it ends depends on where it begins, so it begins at many
places: scales a little below and above the one that spans the group, held at the group's lowest or at its
highest weight. llama.cpp's `make_qkx3_quants` holds the lowest only; with both, half as many candidates find
more.

Every number is that of one order of plain float32 operations: weights lie as [size, ...groups], so that a sum
over a group runs along the first axis, one weight after the other, whatever the processor and its vectors.
"""

from collections.abc import Sequence
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

Candidate = tuple[float, float]
"""A multiple of the scale that spans a group, and where this holds: 0 the lowest weight, 1 the highest."""

# Below this share of what it is the difference of, a determinant is rounding noise.
_NOISE = np.float32(1e-6)


class GroupFit:
    """Groups x, float32 [size, ...groups], whose squared errors count `importance` times, of the same shape.

    Codes lie from `lowest` to `highest`. `minimums` says what a minimum may be: "none" is always 0,
    "positive" 0 or more, "any" of either sign. What is called `scale` and `minimum` below is float32
    [...groups].
    """

    def __init__(
        self,
        x: Floats,
        importance: Floats,
        *,
        lowest: int,
        highest: int,
        minimums: str = "none",
        kernels: ModuleType | None = None,
    ) -> None:
        """With `kernels`, `quantize.compiled_fit`, it finds the same faster."""
        self.x, self.importance = x, importance
        self.lowest, self.highest = np.float32(lowest), np.float32(highest)
        self.minimums = minimums
        self.low, self.high = x.min(axis=0), x.max(axis=0)
        self._codes = np.empty_like(x)
        self._scratch = np.empty_like(x)
        self._kernels = kernels
        self._weighted = importance * x
        self.total = total(importance)
        self._total_x = total(self._weighted)

    def spanning(self) -> tuple[Floats, Floats]:
        """The scale and the minimum with which the outermost codes are the outermost weights."""
        if self.minimums == "none":
            # The larger end lies on the lowest code, because there is one more below zero.
            peak = np.where(self.high > -self.low, self.high, self.low)
            return peak / self.lowest, np.zeros_like(peak)
        low = np.minimum(self.low, 0) if self.minimums == "positive" else self.low
        return (self.high - low) / self.highest, -low

    def best(self, candidates: Sequence[Candidate], refinements: int) -> tuple[Floats, Floats]:
        """The best scale and minimum that are found from the candidates.

        The best of them is refined: rounded with what suits its codes, so many times.
        """
        span, minimum = self.spanning()
        scale, gain = span, np.full_like(span, -1)

        def take_better(tried: Floats, held: Floats) -> None:
            nonlocal scale, minimum, gain
            fitting, least, gained = self._fitting(tried, held)
            better = gained > gain
            scale, minimum = np.where(better, fitting, scale), np.where(better, least, minimum)
            gain = np.maximum(gained, gain)

        start = minimum
        for multiple, end in candidates:
            tried = span * np.float32(multiple)
            held = start
            if self.minimums != "none":
                held = start - (self.highest * (span - tried)) * np.float32(end)
            if self.minimums == "positive":
                held = np.maximum(held, 0)
            take_better(tried, held)
        for _ in range(refinements):
            take_better(scale, minimum)
        return scale, minimum

    def round(self, scale: Floats, minimum: Floats) -> Floats:
        """The nearest codes, laid out as x; for a scale of 0 that nearest to 0. The next call overwrites."""
        np.add(self.x, minimum, out=self._codes)
        np.multiply(self._codes, _inverse(scale), out=self._codes)
        np.rint(self._codes, out=self._codes)
        np.clip(self._codes, self.lowest, self.highest, out=self._codes)
        return self._codes

    def moments(self, scale: Floats, minimum: Floats) -> tuple[Floats, Floats, Floats]:
        """The sums over each group of importance times code, code**2 and code * x, for the nearest codes."""
        if self._kernels is not None:
            found = self._kernels.moments(
                *map(_flat, (self.x, self.importance, self._weighted)),
                *map(np.ravel, (_inverse(scale), minimum)),
                self.lowest,
                self.highest,
            )
            once, twice, along = (each.reshape(scale.shape) for each in found)
            return once, twice, along
        codes, scratch = self.round(scale, minimum), self._scratch
        np.multiply(self.importance, codes, out=scratch)
        once = total(scratch)
        np.multiply(scratch, codes, out=scratch)
        twice = total(scratch)
        np.multiply(self._weighted, codes, out=scratch)
        return once, twice, total(scratch)

    def error(self, scale: Floats, minimum: Floats) -> tuple[Floats, Floats]:
        """The weighted squared error of each group, and the weighted sum of what it is too high by.

        The second, over `total`, is what must be added to the minimum to suit the nearest codes.
        """
        if self._kernels is not None:
            found = self._kernels.errors(
                *map(_flat, (self.x, self.importance)),
                *map(np.ravel, (_inverse(scale), scale, minimum)),
                self.lowest,
                self.highest,
            )
            error, high = (each.reshape(scale.shape) for each in found)
            return error, high
        codes, scratch = self.round(scale, minimum), self._scratch
        np.multiply(codes, scale, out=scratch)
        np.subtract(scratch, minimum, out=scratch)
        np.subtract(scratch, self.x, out=scratch)
        weighted = np.multiply(self.importance, scratch, out=codes)
        high = total(weighted)
        np.multiply(weighted, scratch, out=scratch)
        return total(scratch), high

    def block_sums(
        self, moments: tuple[Floats, Floats, Floats], scales: Floats, minimums: Floats
    ) -> tuple[Floats, ...]:
        """The normal equations of two factors, of all scales and of all minimums of a block.

        `moments` are those of the codes; `scales` and `minimums` are float32 [groups, blocks]. Returns five
        sums [blocks]: of scale**2, scale * minimum, minimum**2, scale * x and minimum * x, where scale stands
        for that times the code.
        """
        once, twice, along = moments
        return (
            total(scales * scales * twice),
            total(scales * minimums * once),
            total(minimums * minimums * self.total),
            total(scales * along),
            total(minimums * self._total_x),
        )

    def _fitting(self, scale: Floats, minimum: Floats) -> tuple[Floats, Floats, Floats]:
        """What suits the nearest codes best, and how much of the squared error it takes away."""
        once, twice, along = self.moments(scale, minimum)
        alone = np.divide(along, twice, out=np.zeros_like(along), where=twice > 0)
        if self.minimums == "none":
            return alone, np.zeros_like(alone), alone * along
        determinant = self.total * twice - once * once
        sound = determinant > _NOISE * self.total * twice
        scale = self.total * along - self._total_x * once
        np.divide(scale, determinant, out=scale, where=sound)
        minimum = (scale * once - self._total_x) / self.total
        if self.minimums == "positive":
            scale = np.where(minimum < 0, alone, scale)
            minimum = np.maximum(minimum, 0)
        gain = scale * along - minimum * self._total_x
        return scale, minimum, np.where(sound & (scale > 0), gain, np.float32(-1))


def total(numbers: Floats) -> Floats:
    """The sum along the first axis, from the first to the last, of float32 [size, ...]."""
    if numbers[0].size == 1:
        # NumPy would add up a lone column in another order.
        last: Floats = np.add.accumulate(numbers, axis=0)[-1]
        return last
    summed: Floats = np.add.reduce(numbers, axis=0)
    return summed


def _inverse(scale: Floats) -> Floats:
    inverse: Floats = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    return inverse


def _flat(numbers: Floats) -> Floats:
    """[size, ...groups] as [size, groups]."""
    return numbers.reshape(len(numbers), -1)
