"""Pictures that are drawn by code: the same every time, of the size that is asked for, and true."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from edgephi.reference.pictures.display import Display, some_display
from edgephi.reference.pictures.gauge import HIGHEST, LOWEST, STEP, Gauge, some_gauge
from edgephi.reference.pictures.lights import COLOURS, Lamp, Lights, some_lights
from edgephi.reference.pictures.scene import Scene


def nothing(_canvas: ImageDraw.ImageDraw, _width: int, _height: int) -> None:
    """What is drawn where only the scene counts."""


PLAIN = Scene(240, 120, background=(200, 200, 200))


def pixels(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


@pytest.mark.parametrize(
    "some",
    [
        lambda rng: some_gauge(rng, 40).draw(),
        lambda rng: some_display(rng, 472).draw(),
        lambda rng: some_lights(rng, (True, False, True, True)).draw(),
    ],
    ids=["gauge", "display", "lights"],
)
def test_the_same_seed_draws_the_same_picture(some: Callable[[np.random.Generator], Image.Image]) -> None:
    first, again, other = (some(np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


@pytest.mark.parametrize("tilt", [0.0, 5.0])
def test_a_picture_has_the_size_of_its_scene(tilt: float) -> None:
    scene = Scene(301, 97, background=(10, 20, 30), tilt=tilt, shade=0.2, noise=4)
    image = scene.picture(nothing)
    assert (image.size, image.mode) == ((301, 97), "RGB")


def test_shade_and_noise_are_as_large_as_they_say() -> None:
    grey = Scene(400, 100, background=(100, 100, 100), shade=0.5)
    row = pixels(grey.picture(nothing))[50, :, 0]
    assert (row[0], row[-1]) == (100, 50)
    noisy = pixels(Scene(400, 100, (100, 100, 100), noise=6).picture(nothing))
    assert noisy.mean() == pytest.approx(100, abs=0.3)
    assert noisy.std() == pytest.approx(6, rel=0.05)


@pytest.mark.parametrize("reading", range(LOWEST, HIGHEST + 1, STEP))
def test_the_needle_of_a_gauge_points_at_its_reading(reading: int) -> None:
    """The needle is the only thing that is green: where its middle lies tells the angle."""
    gauge = Gauge(reading, Scene(300, 300, (200, 200, 200)), needle=(0, 255, 0))
    seen = pixels(gauge.draw())
    y, x = np.nonzero((seen[..., 1] > 200) & (seen[..., 0] < 60))
    clockwise = np.degrees(np.arctan2(y.mean() - 149.5, x.mean() - 149.5)) % 360
    expected = (135 + 270 * reading / 100) % 360
    assert abs((clockwise - expected + 180) % 360 - 180) < 2


@pytest.mark.parametrize("number", [0, 18, 88, 111, 407, 888])
def test_a_display_lights_as_many_segments_as_its_digits_have(number: int) -> None:
    """The segments of a digit are alike in size, so that the lit area counts them."""
    counts = (6, 2, 5, 5, 4, 5, 6, 3, 7, 6)

    def lit(shown: int) -> int:
        seen = pixels(Display(shown, PLAIN, segment=(255, 0, 0), unlit=0).draw())
        return int(((seen[..., 0] > 150) & (seen[..., 1] < 60)).sum())

    all_lit = lit(int("8" * len(str(number))))
    expected = sum(counts[int(digit)] for digit in str(number)) / (7 * len(str(number)))
    assert lit(number) / all_lit == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("column", [False, True])
def test_lamps_are_bright_where_they_are_on(column: bool) -> None:
    on = (True, False, False, True)
    scene = Scene(100, 400, (20, 20, 20)) if column else Scene(400, 100, (20, 20, 20))
    lamps = tuple(Lamp(colour, lit) for colour, lit in zip(COLOURS, on, strict=False))
    seen = pixels(Lights(lamps, scene, column).draw())
    along = seen if column else seen.transpose(1, 0, 2)
    brightest = [part.max() for part in np.array_split(along[:, 35:65], 4)]
    assert [value > 200 for value in brightest] == list(on)
