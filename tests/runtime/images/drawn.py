"""Pictures that tests draw: waves, edges and noise, so that every step of preparation shows."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def drawn(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture of that size in red, green and blue."""
    chance = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    colours = np.stack(
        [127 + 120 * np.sin(x / 37 + y / 91), 255 * (x + 1) / width, 255 * (y + 1) / height], axis=-1
    )
    colours[(x // 40 + y // 40) % 2 == 0] *= 0.6
    noise = chance.normal(0, 6, colours.shape)
    return Image.fromarray(np.clip(colours + noise, 0, 255).astype(np.uint8))


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file of that kind."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()
