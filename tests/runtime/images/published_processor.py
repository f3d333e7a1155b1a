"""What the published processor of Phi-3-vision makes of images: written with Pillow and torch, as an oracle.

It takes pictures that are red, green and blue already, and texts with `<|image_1|>` for the first of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from edgephi.bundle.image_tokens import ImageFacts

PUBLISHED = ImageFacts(
    tile=336,
    patch=14,
    crops=4,
    hidden_size=3072,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
"""The numbers of Phi-3.5-vision."""


@dataclass(frozen=True)
class Published:
    """An image as it is given to the model: its tiles, its padded size in pixels, and its tokens."""

    pixels: torch.Tensor
    height: int
    width: int
    tokens: int


def publish(picture: Image.Image, crops: int, facts: ImageFacts = PUBLISHED) -> Published:
    """The tiles of a picture, the thumbnail first."""
    tile, is_tall = facts.tile, picture.width < picture.height
    if is_tall:
        picture = picture.transpose(Image.Transpose.TRANSPOSE)
    ratio = picture.width / picture.height
    across = max(each for each in range(1, crops + 1) if each * math.ceil(each / ratio) <= crops)
    width = across * tile
    height = int(width / ratio)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    padded = math.ceil(height / tile) * tile
    framed = Image.new("RGB", (width, padded), (255, 255, 255))
    framed.paste(picture, (0, int((padded - height) / 2)))
    if is_tall:
        framed = framed.transpose(Image.Transpose.TRANSPOSE)
    data = torch.frombuffer(bytearray(framed.tobytes()), dtype=torch.uint8)
    colours = data.reshape(framed.height, framed.width, 3).permute(2, 0, 1).to(torch.float32).div(255)
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (facts.mean, facts.std))
    colours = (colours - mean) / std
    thumbnail = torch.nn.functional.interpolate(colours[None], size=(tile, tile), mode="bicubic")
    rows, columns = framed.height // tile, framed.width // tile
    tiles = colours.reshape(3, rows, tile, columns, tile).permute(1, 3, 0, 2, 4).reshape(-1, 3, tile, tile)
    tokens = (rows * columns + 1) * facts.side**2 + 1 + (rows + 1) * facts.side
    return Published(torch.cat([thumbnail, tiles]), framed.height, framed.width, tokens)


def published_ids(text: str, tokens: Sequence[int], encode: Callable[[str], list[int]]) -> list[int]:
    """The ids of a text with images of so many `tokens`: -N for each token of image N."""
    found: list[int] = []
    for piece in re.split(r"(<\|image_\d+\|>)", text):
        if image := re.fullmatch(r"<\|image_(\d+)\|>", piece):
            number = int(image[1])
            found += [-number] * tokens[number - 1]
        else:
            found += encode(piece)
    return found
