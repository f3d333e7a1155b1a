"""How many tokens an image is, and in which order: what builder and device must agree on to the last one.

An image is cut into a grid of square tiles, and a thumbnail of it is one more tile, tile 0. The encoder turns
each tile into a square of `side` x `side` tokens. A model reads the grid's tokens line by line, across tiles,
with a token at the end of each line; then a separator; then the thumbnail in the same way.

Standard library only: a device counts before it decodes a picture.

Source: the published `image_processing_phi3_v.py` and `modeling_phi3_v.py` (`hd_transform_order` "sub_glb").
"""

import math
from dataclasses import dataclass

from edgephi.errors import BadBundleError

LINE_END, SEPARATOR = 0, 1
"""The first two of the rows that `row_order` counts."""

_MERGED = 2  # patches of a side that become one token
LARGEST_TILE = 4096  # pixels
MOST_CROPS = 64
LEAST_STD = 1e-3
"""Smaller ones would make of colours what no encoder was trained on, and at last no numbers."""
_LARGEST_HIDDEN = 1 << 20


@dataclass(frozen=True)
class ImageFacts:
    """What an image becomes: tiles of `tile` pixels a side, cut into patches of `patch`.

    A grid has at most `crops` tiles. Pixels of the three colours, 0 to 1, lose `mean` and are divided by
    `std`. Each token is `hidden_size` numbers for the decoder.
    """

    tile: int
    patch: int
    crops: int
    hidden_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def side(self) -> int:
        """Tokens of a side of a tile."""
        return self.tile // self.patch // _MERGED


def resized_size(width: int, height: int, facts: ImageFacts, crops: int | None = None) -> tuple[int, int]:
    """Width and height in pixels that an image gets before it is padded to whole tiles.

    The longer side becomes as many tiles as `crops` allow, the model's own number where that is None. The
    shorter one may become 0 pixels: no such image can be read (`grid_of` then has no tile for it).
    """
    longer, shorter = max(width, height), min(width, height)
    ratio, most = longer / shorter, facts.crops if crops is None else crops
    tiles = 1
    while tiles * math.ceil(tiles / ratio) <= most:
        tiles += 1
    new_longer = (tiles - 1) * facts.tile
    new_shorter = int(new_longer / ratio)
    return (new_shorter, new_longer) if width < height else (new_longer, new_shorter)


def grid_of(width: int, height: int, facts: ImageFacts, crops: int | None = None) -> tuple[int, int]:
    """Rows and columns of tiles of an image of so many pixels."""
    new_width, new_height = resized_size(width, height, facts, crops)
    return -(-new_height // facts.tile), -(-new_width // facts.tile)


def token_count(grid: tuple[int, int], facts: ImageFacts) -> int:
    """Tokens of an image: its tiles and its thumbnail, a token at the end of each line, and the separator."""
    rows, columns = grid
    side = facts.side
    return (rows * columns + 1) * side**2 + 1 + (rows + 1) * side


def row_order(grid: tuple[int, int], facts: ImageFacts) -> list[int]:
    """Which row each token of an image is.

    Rows are numbered so: 0 the end of a line, 1 the separator, then those of each tile line by line, the
    thumbnail first and after it the tiles of the grid, row by row.
    """
    rows, columns = grid
    side = facts.side

    def line(tiles: range, inside: int) -> list[int]:
        """A line of tokens across tiles that stand side by side."""
        starts = (2 + tile * side**2 + inside * side for tile in tiles)
        return [row for start in starts for row in range(start, start + side)] + [LINE_END]

    order = []
    for row in range(rows):
        tiles = range(1 + row * columns, 1 + (row + 1) * columns)
        order += [each for inside in range(side) for each in line(tiles, inside)]
    order.append(SEPARATOR)
    return order + [each for inside in range(side) for each in line(range(1), inside)]


def check_images(facts: ImageFacts | None, *, where: str, hint: str) -> None:
    """Raise BadBundleError for what no image could be prepared by."""
    if facts is None:
        return
    step = _MERGED * facts.patch
    if not 0 < facts.patch <= facts.tile <= LARGEST_TILE or facts.tile % step:
        raise BadBundleError(
            f"{where}: model: images: expected tiles of a multiple of twice the patch, of at most "
            f"{LARGEST_TILE} pixels, found tiles of {facts.tile} and patches of {facts.patch}",
            hint=hint,
        )
    if not 1 <= facts.crops <= MOST_CROPS or not 1 <= facts.hidden_size <= _LARGEST_HIDDEN:
        raise BadBundleError(
            f"{where}: model: images: expected 1 to {MOST_CROPS} crops and 1 to {_LARGEST_HIDDEN} numbers a "
            f"token, found {facts.crops} and {facts.hidden_size}",
            hint=hint,
        )
    for name, values, least in (("mean", facts.mean, 0), ("std", facts.std, LEAST_STD)):
        if len(values) != 3 or not all(least < value < 1 for value in values):
            raise BadBundleError(
                f"{where}: model: images: {name}: expected three numbers between {least:g} and 1, found "
                f"{', '.join(f'{value:g}' for value in values[:4])}",
                hint=hint,
            )
