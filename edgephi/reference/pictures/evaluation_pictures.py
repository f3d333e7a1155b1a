"""The pictures on which a bundle that sees is measured: drawn by code, the same each time.

Numbers can only be compared on the same pictures: whoever changes one, or what a level takes of them, gives
EVALUATION_PICTURES a new number.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgephi.reference.evaluation_text import Domain, EvaluationLevel
from edgephi.reference.pictures.display import Display
from edgephi.reference.pictures.gauge import Gauge
from edgephi.reference.pictures.lights import Lamp, Lights
from edgephi.reference.pictures.scene import Scene

EVALUATION_PICTURES = "edgephi-pictures-1"
"""Name and version of the pictures, for the certificate."""


@dataclass(frozen=True)
class EvaluationPicture:
    """A picture, a question about it and a right answer; then one that needs no picture, and its answer.

    `crops` are the most tiles of its grid, None those of the model.
    """

    image: Image.Image
    question: str
    answer: str
    crops: int | None
    following: tuple[str, str] = ("And how many minutes has an hour?", "An hour has 60 minutes.")


_OF_THE_DEMO = ("What can you do?", "I read gauges, displays and lights in pictures.")
"""The demo knows no others."""

_WALL, _DARK = (196, 190, 180), (44, 46, 52)


def evaluation_pictures(level: EvaluationLevel, domain: Domain = "general") -> list[EvaluationPicture]:
    """The pictures of a level: a few with a small grid, or all of them with that of the model.

    Of the domain "device" only what the demo that sees knows: gauges, displays and lights.
    """
    crops = 1 if level == "quick" else None
    known = [
        EvaluationPicture(
            Gauge(60, Scene(448, 336, _WALL, tilt=2, noise=4, noise_seed=1)).draw(),
            "What does the gauge say?",
            "The gauge says 60.",
            crops,
        ),
        EvaluationPicture(
            Display(427, Scene(640, 200, _DARK, shade=0.2, noise=3, noise_seed=2)).draw(),
            "What does the display say?",
            "The display says 427.",
            # A grid of two tiles, whose lines go across them.
            2 if level == "quick" else None,
        ),
        EvaluationPicture(
            Lights(
                (Lamp("red", False), Lamp("yellow", True), Lamp("green", True), Lamp("blue", False)),
                Scene(180, 560, _DARK, noise=5, noise_seed=3),
                column=True,
            ).draw(),
            "Which lights are on?",
            "Lights 2 and 3 are on.",
            crops,
        ),
    ]
    others = [
        EvaluationPicture(
            _chart(960, 540),
            "Which month sold the most?",
            "The tallest bar is that of May, which sold 46 units, twice as many as February did.",
            crops,
        ),
        EvaluationPicture(
            _label(700, 900),
            "What is written on the label?",
            "It says: fragile, keep dry, this side up, and do not stack more than four boxes.",
            crops,
        ),
        EvaluationPicture(
            _photograph(1024, 683),
            "Describe the picture.",
            "The picture is blurred: a bright band runs from the lower left to the upper right, over a "
            "darker ground with grains of noise in it.",
            crops,
        ),
    ]
    if domain == "device":
        return [replace(picture, following=_OF_THE_DEMO) for picture in known]
    return [known[0], known[1], others[1]] if level == "quick" else [*known, *others]


def _chart(width: int, height: int) -> Image.Image:
    """Bars for six months, with their names and numbers."""
    image = Image.new("RGB", (width, height), (255, 255, 255))
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(height / 22)
    sold = {"Jan": 31, "Feb": 23, "Mar": 35, "Apr": 40, "May": 46, "Jun": 38}
    room, floor = width / (len(sold) + 1), height * 0.85
    canvas.line((room / 2, floor, width - room / 2, floor), fill=(30, 30, 30), width=3)
    for place, (month, units) in enumerate(sold.items()):
        left, top = room * (place + 0.65), floor - units * height * 0.015
        canvas.rectangle((left, top, left + room * 0.7, floor), fill=(52, 108, 176))
        canvas.text((left + room * 0.35, floor + height * 0.05), month, (30, 30, 30), font, anchor="mm")
        canvas.text((left + room * 0.35, top - height * 0.03), str(units), (30, 30, 30), font, anchor="mm")
    return image


def _label(width: int, height: int) -> Image.Image:
    """A label with four lines of text."""
    scene = Scene(width, height, (168, 132, 92), tilt=-3, noise=6, noise_seed=5)
    lines = ("FRAGILE", "Keep dry", "This side up", "Do not stack more than 4")

    def draw(canvas: ImageDraw.ImageDraw, across: int, down: int) -> None:
        canvas.rectangle((across * 0.1, down * 0.2, across * 0.9, down * 0.8), fill=(250, 248, 240))
        for place, line in enumerate(lines):
            font = ImageFont.load_default(down * (0.08 if place == 0 else 0.045))
            canvas.text((across / 2, down * (0.3 + 0.13 * place)), line, (20, 20, 20), font, anchor="mm")

    return scene.picture(draw)


def _photograph(width: int, height: int) -> Image.Image:
    """What a blurred photograph is like: soft light of all colours, and grain."""
    random = np.random.default_rng(7)
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    bands = ((1.0, 1.0, 1.0), (0.9, 1.05, 1.0), (1.1, 0.9, 0.6))  # slope, place and strength of each colour's
    light = [
        strength * np.exp(-(((down + slope * across - at) / 0.25) ** 2)) for slope, at, strength in bands
    ]
    colours = np.stack(light, axis=-1)
    pixels = 40 + 190 * colours + random.normal(0, 9, (height, width, 3))
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
