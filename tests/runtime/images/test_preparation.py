"""The encoder gets of each image what the published processor gives it, to the last pixel and token."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgephi.bundle.image_tokens import ImageFacts
from edgephi.errors import BadInputError, UsageError
from edgephi.runtime.images import prepare
from tests.runtime.images.drawn import drawn, saved
from tests.runtime.images.published_processor import PUBLISHED, publish

SIZES = [
    (1, 1),
    (1, 2),
    (2, 1),
    (1, 16),
    (3, 5),
    (16, 16),
    (17, 300),
    (31, 30),
    (90, 91),
    (100, 60),
    (120, 1000),
    (224, 224),
    (300, 200),
    (320, 240),
    (333, 1000),
    (335, 336),
    (336, 336),
    (336, 337),
    (337, 336),
    (336, 672),
    (336, 1344),
    (1344, 336),
    (400, 400),
    (480, 640),
    (640, 480),
    (500, 499),
    (672, 672),
    (673, 671),
    (700, 233),
    (800, 100),
    (100, 1599),
    (1000, 1000),
    (1008, 1344),
    (1200, 1600),
    (1300, 250),
    (1920, 1080),
    (1080, 1920),
    (2000, 90),
    (4000, 3000),
    (8000, 300),
]
DEMO = ImageFacts(tile=56, patch=14, crops=4, hidden_size=64, mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 0.2))
TOLERANCE = 1e-6


def test_there_are_forty_sizes() -> None:
    assert len(set(SIZES)) == 40


@pytest.mark.parametrize(("width", "height"), SIZES, ids=str)
@pytest.mark.parametrize("crops", [4, 16])
def test_an_image_is_what_the_published_processor_makes_of_it(width: int, height: int, crops: int) -> None:
    picture = drawn(width, height)
    expected, found = publish(picture, crops), prepare(picture, PUBLISHED, crops)
    assert (found.grid[0] * 336, found.grid[1] * 336) == (expected.height, expected.width)
    assert found.tokens == expected.tokens
    assert found.pixels.shape == tuple(expected.pixels.shape)
    assert np.abs(found.pixels - expected.pixels.numpy()).max() <= TOLERANCE


@pytest.mark.parametrize("crops", range(1, 17))
@pytest.mark.parametrize(("width", "height"), [(640, 480), (97, 250)])
def test_it_is_so_for_any_number_of_crops(width: int, height: int, crops: int) -> None:
    picture = drawn(width, height)
    for facts in (DEMO, PUBLISHED) if crops in (1, 5) else (DEMO,):
        expected, found = publish(picture, crops, facts), prepare(picture, facts, crops)
        assert found.tokens == expected.tokens
        assert np.abs(found.pixels - expected.pixels.numpy()).max() <= TOLERANCE


def test_the_counts_are_those_that_are_known() -> None:
    sizes = [(672, 672), (1344, 336), (1344, 1008), (1344, 1344)]
    assert [prepare(drawn(*size), PUBLISHED, 4).tokens for size in sizes[:2]] == [757, 745]
    assert [prepare(drawn(*size), PUBLISHED, 16).tokens for size in sizes[2:]] == [1921, 2509]


def test_without_a_number_the_models_crops_hold() -> None:
    picture = drawn(500, 500)
    assert prepare(picture, PUBLISHED).tokens == prepare(picture, PUBLISHED, 4).tokens
    more = dataclasses.replace(PUBLISHED, crops=16)
    assert prepare(picture, more).tokens == prepare(picture, PUBLISHED, 16).tokens


@pytest.mark.parametrize("crops", [0, -1, 65])
def test_a_number_of_crops_that_makes_no_sense_is_refused(crops: int) -> None:
    with pytest.raises(UsageError, match=f"expected 1 to 64 crops, found {crops}"):
        prepare(drawn(9, 9), PUBLISHED, crops)


@pytest.mark.parametrize(("width", "height"), [(3000, 1), (1, 3000)])
def test_an_image_that_would_have_no_pixels_left_is_refused(width: int, height: int) -> None:
    with pytest.raises(BadInputError, match=f"expected an image of whose narrow side .* {width} x {height}"):
        prepare(saved(drawn(width, height), "PNG"), PUBLISHED)


def test_the_key_tells_what_a_model_could_see_differently() -> None:
    picture, other = saved(drawn(500, 400), "PNG"), saved(drawn(500, 400, seed=1), "PNG")
    assert prepare(picture, PUBLISHED).key == prepare(picture, PUBLISHED, 4).key
    assert prepare(picture, PUBLISHED).key != prepare(picture, PUBLISHED, 16).key
    assert prepare(picture, PUBLISHED).key != prepare(other, PUBLISHED).key
    array = np.asarray(drawn(500, 400))
    assert prepare(array, PUBLISHED).key == prepare(drawn(500, 400), PUBLISHED).key
    assert prepare(array, PUBLISHED).key != prepare(array.reshape(400, 500, 3)[::-1], PUBLISHED).key
