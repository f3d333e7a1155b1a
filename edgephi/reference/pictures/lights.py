"""Lamps in a row or in a column, each on or off."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from edgephi.reference.pictures.scene import Colour, Scene, mixed, some_colour, some_scene, turned

COLOURS: dict[str, Colour] = {
    "red": (250, 50, 44),
    "green": (60, 225, 80),
    "blue": (60, 120, 255),
    "yellow": (255, 214, 50),
    "white": (250, 250, 250),
}
"""What a lamp looks like that is on."""

_GLASS: Colour = (58, 58, 60)


@dataclass(frozen=True)
class Lamp:
    """One lamp: its colour is a name of COLOURS."""

    colour: str
    on: bool


@dataclass(frozen=True)
class Lights:
    """Lamps from left to right or, in a column, from top to bottom."""

    lamps: tuple[Lamp, ...]
    scene: Scene
    column: bool = False
    square: bool = False
    panel: Colour = (40, 42, 46)
    bezel: Colour = (150, 150, 150)
    size: float = 0.66
    """Of a lamp, of the room that it has."""
    tint: float = 0.25
    """How much of its colour a lamp has that is off, 0 to 1."""

    def draw(self) -> Image.Image:
        """The picture of them."""
        return self.scene.picture(self._draw)

    def _draw(self, canvas: ImageDraw.ImageDraw, width: int, height: int) -> None:
        margin = min(width, height) * 0.08
        canvas.rectangle((margin, margin, width - margin, height - margin), fill=self.panel)
        along, across = (height, width) if self.column else (width, height)
        room = min((along - 2 * margin) / len(self.lamps), across - 2 * margin)
        reach = room * self.size / 2
        step = (along - 2 * margin) / len(self.lamps)
        for place, lamp in enumerate(self.lamps):
            middle = margin + step * (place + 0.5)
            x, y = (across / 2, middle) if self.column else (middle, across / 2)
            self._lamp(canvas, lamp, x, y, reach)

    def _lamp(self, canvas: ImageDraw.ImageDraw, lamp: Lamp, x: float, y: float, reach: float) -> None:
        shape = canvas.rectangle if self.square else canvas.ellipse

        def filled(share: float, colour: Colour, up: float = 0.0) -> None:
            size, middle = reach * share, y - reach * up
            shape((x - size, middle - size, x + size, middle + size), fill=colour)

        bright = COLOURS[lamp.colour]
        filled(1, self.bezel)
        if not lamp.on:
            filled(0.84, mixed(_GLASS, mixed(bright, (0, 0, 0), 0.5), self.tint))
            return
        filled(0.84, mixed(bright, (0, 0, 0), 0.12))
        filled(0.62, bright)
        filled(0.26, mixed(bright, (255, 255, 255), 0.7), 0.2)


def some_lights(rng: np.random.Generator, on: tuple[bool, ...]) -> Lights:
    """Lamps of which those are on, the rest by chance."""
    names = list(COLOURS)
    if rng.random() < 0.4:
        colours = [names[int(rng.integers(len(names)))]] * len(on)
    else:
        colours = [names[int(rng.integers(len(names)))] for _ in on]
    scene = some_scene(rng, (2.2, 4.6), (120, 560))
    column = bool(rng.random() < 0.25)
    return Lights(
        lamps=tuple(Lamp(colour, lit) for colour, lit in zip(colours, on, strict=True)),
        scene=turned(scene) if column else scene,
        column=column,
        square=bool(rng.random() < 0.25),
        panel=some_colour(rng, [(40, 42, 46), (20, 20, 22), (205, 205, 200), (120, 124, 128), (60, 80, 66)]),
        bezel=some_colour(rng, [(150, 150, 150), (28, 28, 30), (224, 224, 224)]),
        size=float(rng.uniform(0.6, 0.9)),
        tint=float(rng.uniform(0, 0.4)),
    )
