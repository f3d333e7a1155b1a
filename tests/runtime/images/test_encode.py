"""Tiles become the tokens that a manifest tells of, or none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgephi.bundle.image_tokens import ImageFacts, token_count
from edgephi.errors import BadBundleError
from edgephi.runtime.images.encode import ReadyImage, encode_image
from edgephi.runtime.images.rows import ImageRows

FACTS = ImageFacts(tile=56, patch=14, crops=4, hidden_size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
GRID = (1, 2)
TOKENS = token_count(GRID, FACTS)


class Seeing:
    """What `encode_image` needs of an engine, with an encoder that makes rows of one shape of each tile."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.image_rows = ImageRows(FACTS.hidden_size, 1000)
        self.image_rows.place("a", TOKENS)
        self.tile_encoder = self
        self._shape = shape

    def encode_tile(self, _pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ones(self._shape, np.float32)

    def separators(self) -> NDArray[np.float32]:
        return np.zeros((2, self._shape[1]), np.float32)


def encoded(engine: Any) -> list[int]:
    pixels = np.zeros((3, 3, FACTS.tile, FACTS.tile), np.float32)
    return list(encode_image(engine, ReadyImage(pixels, GRID, TOKENS, "a"), FACTS))


def test_each_tile_is_told_and_the_image_is_whole() -> None:
    engine = Seeing((4, 8))
    assert encoded(engine) == [1, 2, 3]
    assert engine.image_rows.is_filled("a")
    assert encoded(engine) == []


@pytest.mark.parametrize("shape", [(4, 7), (4, 9), (1, 8), (16, 8), (0, 8)])
def test_an_encoder_that_is_not_the_manifests_is_called_by_its_name(shape: tuple[int, int]) -> None:
    engine = Seeing(shape)
    with pytest.raises(BadBundleError, match=r"model: images: expected a tile to be 4 tokens of 8 numbers"):
        encoded(engine)
    assert not engine.image_rows.is_filled("a")
