"""What the encoder of Phi-3-vision is given of an image: its tiles and its thumbnail, to the last pixel.

The picture is resized until its longer side is as many tiles as the model allows, by Pillow's bilinear filter
over all the pixels that each new one covers. White fills the shorter side up to whole tiles, half of it on
either edge. Then colours are normalised, and the thumbnail is what torch's bicubic interpolation makes of
those numbers: from four pixels a side, whatever lies between them.

A tall picture is mirrored across its diagonal before it is resized, and back afterwards: Pillow rounds
between the columns and the rows, so that their order matters.

Source: the published `image_processing_phi3_v.py`. Arrays are [height, width, colour] of bytes, or
[colour, height, width] of float32 once normalised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgephi.bundle.image_tokens import ImageFacts
from edgephi.runtime.images.decoding import pillow, refusing_broken
from edgephi.runtime.images.seen_image import ImageSource, SeenImage, see

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

_WHITE = 255
_CUBIC = -0.75  # torch's
_TAPS = 4


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image that is ready for the encoder: `grid` is rows and columns of tiles.

    `canvas` is the resized picture with its padding, bytes [rows * tile, columns * tile, 3]: a quarter of
    what its `pixels` take, so that many can wait. `key` is that of `SeenImage`.
    """

    canvas: NDArray[np.uint8]
    grid: tuple[int, int]
    tokens: int
    key: str
    facts: ImageFacts

    @property
    def pixels(self) -> NDArray[np.float32]:
        """Its tiles, [1 + rows * columns, 3, tile, tile]: the thumbnail, then those of the grid by rows."""
        import numpy as np

        tile, (rows, columns) = self.facts.tile, self.grid
        colours = _normalised(self.canvas, self.facts)
        tiles = np.empty((1 + rows * columns, 3, tile, tile), np.float32)
        tiles[0] = _thumbnail(colours, tile)
        by_rows = colours.reshape(3, rows, tile, columns, tile).transpose(1, 3, 0, 2, 4)
        tiles[1:].reshape(rows, columns, 3, tile, tile)[:] = by_rows
        return tiles


def prepare(source: ImageSource, facts: ImageFacts, crops: int | None = None) -> PreparedImage:
    """Decode an image and cut it up for the encoder. Raises as `see` does, and for a file that is broken."""
    return prepared(see(source, facts, crops), facts)


def prepared(image: SeenImage, facts: ImageFacts) -> PreparedImage:
    """The same for an image that was looked at."""
    with refusing_broken(image.name):
        canvas = _canvas(image.picture(), image.resized, image.grid, facts.tile)
    return PreparedImage(canvas, image.grid, image.tokens, image.key, facts)


def _canvas(picture: Image, resized: tuple[int, int], grid: tuple[int, int], tile: int) -> NDArray[np.uint8]:
    """The picture in its new size, white around it."""
    import numpy as np

    library = pillow()
    is_tall = picture.width < picture.height
    if is_tall:
        picture = picture.transpose(library.Transpose.TRANSPOSE)
    width, height = (resized[1], resized[0]) if is_tall else resized
    padded = (grid[1] if is_tall else grid[0]) * tile
    canvas = np.full((padded, width, 3), _WHITE, np.uint8)
    top = (padded - height) // 2
    canvas[top : top + height] = np.asarray(picture.resize((width, height), library.Resampling.BILINEAR))
    return np.ascontiguousarray(canvas.transpose(1, 0, 2)) if is_tall else canvas


def _normalised(canvas: NDArray[np.uint8], facts: ImageFacts) -> NDArray[np.float32]:
    """The colours of a picture as the encoder takes them, [3, height, width]."""
    import numpy as np

    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    colours = np.empty((3, *canvas.shape[:2]), np.float32)
    for place, (mean, std) in enumerate(zip(facts.mean, facts.std, strict=True)):
        colours[place] = ((levels - np.float32(mean)) / np.float32(std))[canvas[:, :, place]]
    return colours


def _thumbnail(colours: NDArray[np.float32], tile: int) -> NDArray[np.float32]:
    """One tile that shows all of a picture of whole tiles."""
    import numpy as np

    rows, row_weights = _taps(colours.shape[1], tile)
    columns, column_weights = _taps(colours.shape[2], tile)
    found = np.zeros((3, tile, tile), np.float32)
    for row, row_weight in zip(rows, row_weights, strict=True):
        lines = colours[:, row]
        across = np.zeros_like(found)
        for column, weight in zip(columns, column_weights, strict=True):
            across += weight * lines[:, :, column]
        found += row_weight * across
    return found


def _taps(size: int, tile: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The pixels of a side that each of the thumbnail's is made of, [4, tile], and their weights, [4].

    Of whole tiles all pixels of the thumbnail lie alike between those of the picture.
    """
    import numpy as np

    factor = size // tile
    first = factor * np.arange(tile) + (factor - 1) // 2  # the last one in front of the new pixel's centre
    between = ((factor - 1) % 2) / 2  # and how far in front
    distances = np.abs(np.arange(_TAPS) - 1 - between)
    near = ((_CUBIC + 2) * distances - (_CUBIC + 3)) * distances**2 + 1
    far = ((distances - 5) * distances + 8) * distances * _CUBIC - 4 * _CUBIC
    taps = np.clip(first + np.arange(-1, _TAPS - 1)[:, None], 0, size - 1)
    return taps, np.where(distances <= 1, near, far).astype(np.float32)
