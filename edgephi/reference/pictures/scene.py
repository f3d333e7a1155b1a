"""How something is seen: the size of its picture, what is behind it, how it is tilted and lit, and noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each."""

Draw = Callable[[ImageDraw.ImageDraw, int, int], None]
"""Draws on a canvas of that width and height, in pixels."""

SUPERSAMPLING = 2
"""So many times as wide and high a picture is drawn, and then made smaller: edges become smooth."""


@dataclass(frozen=True)
class Scene:
    """What is around the thing that a picture shows."""

    width: int
    height: int
    background: Colour
    tilt: float = 0.0
    """Degrees, anticlockwise."""
    shade: float = 0.0
    """How much darker the right edge is than the left one, as a share; below 0, how much lighter."""
    noise: float = 0.0
    """Standard deviation of what is added to each channel of each pixel, of 255."""
    noise_seed: int = 0

    def picture(self, draw: Draw) -> Image.Image:
        """What `draw` draws, seen so: RGB, `width` x `height`."""
        size = (self.width * SUPERSAMPLING, self.height * SUPERSAMPLING)
        canvas = Image.new("RGB", size, self.background)
        draw(ImageDraw.Draw(canvas), *size)
        if self.tilt:
            canvas = canvas.rotate(self.tilt, Image.Resampling.BILINEAR, fillcolor=self.background)
        canvas = canvas.reduce(SUPERSAMPLING)
        if not self.shade and not self.noise:
            return canvas
        pixels = np.asarray(canvas, dtype=np.float32)
        pixels = pixels * np.linspace(1, 1 - self.shade, self.width, dtype=np.float32)[None, :, None]
        if self.noise:
            rng = np.random.default_rng(self.noise_seed)
            pixels += rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(self.noise)
        return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def some_scene(rng: np.random.Generator, shape: tuple[float, float], longest: tuple[int, int]) -> Scene:
    """A scene by chance.

    Its width is `shape[0]` to `shape[1]` times its height; its longer side has `longest[0]` to
    `longest[1]` pixels.
    """
    ratio = float(np.exp(rng.uniform(*np.log(shape))))
    side = int(rng.integers(longest[0], longest[1] + 1))
    width, height = (side, round(side / ratio)) if ratio >= 1 else (round(side * ratio), side)
    return Scene(
        width=width,
        height=height,
        background=some_colour(rng, BACKGROUNDS),
        # A long thing that is tilted as much would not be seen whole.
        tilt=float(rng.uniform(-6, 6)) / max(1.0, ratio / 1.5, 1 / ratio / 1.5),
        shade=float(rng.uniform(-0.25, 0.35)),
        noise=float(rng.choice([0.0, rng.uniform(1, 10)])),
        noise_seed=int(rng.integers(2**31)),
    )


def turned(scene: Scene) -> Scene:
    """The scene with width and height exchanged."""
    return replace(scene, width=scene.height, height=scene.width)


BACKGROUNDS: tuple[Colour, ...] = (
    (250, 250, 250),
    (214, 210, 200),
    (150, 155, 160),
    (92, 84, 76),
    (44, 52, 60),
    (24, 24, 26),
    (70, 92, 120),
    (120, 140, 116),
)


def some_colour(rng: np.random.Generator, colours: Sequence[Colour], spread: int = 12) -> Colour:
    """One of the colours, each channel up to `spread` off."""
    chosen = np.asarray(colours[int(rng.integers(len(colours)))]) + rng.integers(-spread, spread + 1, 3)
    red, green, blue = (int(channel) for channel in np.clip(chosen, 0, 255))
    return red, green, blue


def mixed(first: Colour, second: Colour, share: float) -> Colour:
    """The first colour with so large a share of the second, 0 to 1."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue
