"""A display of seven segments a digit: lit ones on a dark panel, or dark ones on a light panel."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from edgephi.reference.pictures.scene import Colour, Scene, mixed, some_colour, some_scene

# The corners of a digit: left and right, top, middle and bottom; a segment joins two of them.
_SEGMENTS = {
    "a": ((0, 0), (1, 0)),
    "b": ((1, 0), (1, 1)),
    "c": ((1, 1), (1, 2)),
    "d": ((0, 2), (1, 2)),
    "e": ((0, 1), (0, 2)),
    "f": ((0, 0), (0, 1)),
    "g": ((0, 1), (1, 1)),
}
_LIT = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")


@dataclass(frozen=True)
class Display:
    """A display that shows `number`, from 0 on, without leading zeros."""

    number: int
    scene: Scene
    panel: Colour = (16, 18, 20)
    segment: Colour = (255, 60, 40)
    unlit: float = 0.1
    """How much of the colour a segment has that is off, 0 to 1."""
    frame: Colour = (60, 60, 64)
    width: float = 0.86
    """Of the panel, of the picture's width."""
    height: float = 0.8
    """Of the panel, of the picture's height."""
    thickness: float = 0.16
    """Of a segment, of the width of a digit."""
    slant: float = 0.08
    """How far the top of a digit stands to the right of its bottom, of its height."""

    def draw(self) -> Image.Image:
        """The picture of it."""
        return self.scene.picture(self._draw)

    def _draw(self, canvas: ImageDraw.ImageDraw, width: int, height: int) -> None:
        wide, high = width * self.width, height * self.height
        left, top = (width - wide) / 2, (height - high) / 2
        edge = min(wide, high) * 0.06
        canvas.rectangle((left - edge, top - edge, left + wide + edge, top + high + edge), fill=self.frame)
        canvas.rectangle((left, top, left + wide, top + high), fill=self.panel)
        digits = str(self.number)
        # A digit is half as wide as high, and the next one begins 0.8 of its height later.
        digit_high = min(high * 0.74, wide * 0.88 / (0.8 * len(digits) - 0.3 + self.slant))
        digit_wide = digit_high / 2
        all_wide = digit_high * (0.8 * len(digits) - 0.3)
        start = left + (wide - all_wide) / 2
        for place, digit in enumerate(digits):
            self._digit(
                canvas,
                int(digit),
                start + 0.8 * digit_high * place,
                top + (high - digit_high) / 2,
                digit_wide,
            )

    def _digit(self, canvas: ImageDraw.ImageDraw, digit: int, left: float, top: float, wide: float) -> None:
        """One digit, twice as high as wide; segments are hexagons that do not touch."""
        half = wide * self.thickness / 2
        lean = self.slant * wide * 2

        def at(x: float, y: float) -> tuple[float, float]:
            return left + x + lean * (0.5 - y / (2 * wide)), top + y

        for name, (first, second) in _SEGMENTS.items():
            lit = name in _LIT[digit]
            colour = self.segment if lit else mixed(self.panel, self.segment, self.unlit)
            gap = half * 0.5
            x0, y0, x1, y1 = (wide * part for part in (*first, *second))
            if y0 == y1:
                x0, x1 = x0 + gap, x1 - gap
                corners = [(x0, y0), (x0 + half, y0 - half), (x1 - half, y0 - half)]
                corners += [(x1, y0), (x1 - half, y0 + half), (x0 + half, y0 + half)]
            else:
                y0, y1 = y0 + gap, y1 - gap
                corners = [(x0, y0), (x0 + half, y0 + half), (x0 + half, y1 - half)]
                corners += [(x0, y1), (x0 - half, y1 - half), (x0 - half, y0 + half)]
            canvas.polygon([at(x, y) for x, y in corners], colour)


_PANELS_AND_SEGMENTS: tuple[tuple[Colour, Colour], ...] = (
    ((16, 16, 18), (255, 56, 40)),
    ((14, 20, 16), (70, 250, 90)),
    ((20, 16, 10), (255, 170, 30)),
    ((12, 16, 28), (90, 180, 255)),
    ((24, 24, 24), (245, 245, 245)),
    ((178, 192, 164), (30, 36, 28)),
    ((205, 210, 205), (24, 28, 40)),
)


def some_display(rng: np.random.Generator, number: int) -> Display:
    """A display that shows the number, the rest by chance."""
    panel, segment = _PANELS_AND_SEGMENTS[int(rng.integers(len(_PANELS_AND_SEGMENTS)))]
    return Display(
        number=number,
        scene=some_scene(rng, (1.3, 2.9), (110, 560)),
        panel=some_colour(rng, [panel], 8),
        segment=some_colour(rng, [segment]),
        unlit=float(rng.choice([0.0, rng.uniform(0, 0.16)])),
        frame=some_colour(rng, [(60, 60, 64), (190, 190, 186), (30, 30, 30), (110, 90, 70)]),
        width=float(rng.uniform(0.78, 0.94)),
        height=float(rng.uniform(0.66, 0.9)),
        thickness=float(rng.uniform(0.16, 0.28)),
        slant=float(rng.uniform(0, 0.14)),
    )
