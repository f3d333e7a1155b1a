"""A round gauge with a needle, from 0 to 100."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgephi.reference.pictures.scene import Colour, Scene, some_colour, some_scene

LOWEST, HIGHEST, STEP = 0, 100, 10
"""The scale, and the distance of two ticks."""

_FIRST_DEGREES, _SWEEP_DEGREES = 135.0, 270.0  # of 0, clockwise from the right; to 100
_RED_FROM = 80


@dataclass(frozen=True)
class Gauge:
    """A gauge that reads `reading`, LOWEST to HIGHEST."""

    reading: float
    scene: Scene
    face: Colour = (245, 245, 240)
    ink: Colour = (20, 20, 24)
    """Of the rim, the ticks and the numbers."""
    needle: Colour = (200, 30, 30)
    radius: float = 0.44
    """Of the shorter side of the picture."""
    centre: tuple[float, float] = (0.5, 0.5)
    """Of width and height."""
    needle_width: float = 0.07
    """At the hub, of the radius."""
    numbers: bool = True
    red_zone: bool = False

    def draw(self) -> Image.Image:
        """The picture of it."""
        return self.scene.picture(self._draw)

    def _draw(self, canvas: ImageDraw.ImageDraw, width: int, height: int) -> None:
        x, y = width * self.centre[0], height * self.centre[1]
        radius = min(width, height) * self.radius

        def point(value: float, distance: float, aside: float = 0.0) -> tuple[float, float]:
            angle = math.radians(
                _FIRST_DEGREES + _SWEEP_DEGREES * (value - LOWEST) / (HIGHEST - LOWEST) + aside
            )
            return x + radius * distance * math.cos(angle), y + radius * distance * math.sin(angle)

        def disc(distance: float, colour: Colour) -> None:
            reach = radius * distance
            canvas.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)

        disc(1, self.ink)
        disc(0.93, self.face)
        if self.red_zone:
            reach = radius * 0.9
            first = _FIRST_DEGREES + _SWEEP_DEGREES * _RED_FROM / HIGHEST
            canvas.arc(
                (x - reach, y - reach, x + reach, y + reach),
                first,
                _FIRST_DEGREES + _SWEEP_DEGREES,
                fill=(214, 60, 50),
                width=max(1, round(radius * 0.1)),
            )
        for value in range(LOWEST, HIGHEST + 1, STEP):
            long = value % (5 * STEP) == 0
            thickness = max(1, round(radius * (0.05 if long else 0.03)))
            canvas.line((point(value, 0.9), point(value, 0.72 if long else 0.78)), self.ink, thickness)
        if self.numbers:
            font = ImageFont.load_default(max(8, radius * 0.17))
            for value in range(LOWEST, HIGHEST + 1, 2 * STEP):
                canvas.text(point(value, 0.58), str(value), self.ink, font, anchor="mm")
        # A needle ends in a point, and a little of it is behind the hub.
        half = math.degrees(math.asin(self.needle_width))
        left, right = point(self.reading, self.needle_width, 90), point(self.reading, self.needle_width, -90)
        canvas.polygon(
            (point(self.reading, 0.82), left, point(self.reading, 0.2, 180 - half), right), self.needle
        )
        disc(0.1, self.needle)
        disc(0.05, self.ink)


_FACES_AND_INKS: tuple[tuple[Colour, Colour, tuple[Colour, ...]], ...] = (
    ((246, 246, 240), (20, 20, 24), ((200, 30, 30), (20, 20, 24), (30, 70, 180))),
    ((228, 214, 180), (60, 40, 24), ((150, 30, 24), (40, 26, 16))),
    ((26, 28, 32), (235, 235, 235), ((240, 90, 40), (250, 250, 250), (250, 210, 40))),
    ((30, 44, 84), (225, 230, 240), ((250, 200, 50), (250, 250, 250), (250, 90, 70))),
)


def some_gauge(rng: np.random.Generator, reading: float) -> Gauge:
    """A gauge that reads so, the rest by chance."""
    face, ink, needles = _FACES_AND_INKS[int(rng.integers(len(_FACES_AND_INKS)))]
    radius = float(rng.uniform(0.36, 0.48))
    scene = some_scene(rng, (0.7, 1.8), (96, 480))
    # The dial may stand anywhere where it is seen whole.
    shorter = min(scene.width, scene.height)
    room = [(1 - 2 * radius * shorter / side) / 2 for side in (scene.width, scene.height)]
    across, down = (0.5 + float(rng.uniform(-free, free)) * 0.7 for free in room)
    return Gauge(
        reading=reading,
        scene=scene,
        face=some_colour(rng, [face]),
        ink=some_colour(rng, [ink]),
        needle=some_colour(rng, needles),
        radius=radius,
        centre=(across, down),
        needle_width=float(rng.uniform(0.05, 0.1)),
        numbers=bool(rng.random() < 0.7),
        red_zone=bool(rng.random() < 0.3),
    )
