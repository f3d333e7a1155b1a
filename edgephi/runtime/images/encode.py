"""Have an engine compute what an image is, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edgephi.bundle.document import HINT
from edgephi.bundle.image_tokens import ImageFacts, row_order
from edgephi.errors import BadBundleError, EdgephiError
from edgephi.runtime.adapter import Engine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Prepared(Protocol):
    """An image that is ready for the encoder."""

    @property
    def pixels(self) -> NDArray[np.float32]:
        """Its tiles, [1 + rows * columns, 3, tile, tile]: the thumbnail, then the grid's row by row."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of its grid."""

    @property
    def tokens(self) -> int:
        """How many tokens it is."""

    @property
    def key(self) -> str:
        """What tells it from all others: a hash of its pixels."""


@dataclass(frozen=True, eq=False)
class ReadyImage:
    """An image whose pixels are at hand; see `Prepared`."""

    pixels: NDArray[np.float32]
    grid: tuple[int, int]
    tokens: int
    key: str


def encode_image(engine: Engine, image: Prepared, facts: ImageFacts) -> Iterator[int]:
    """Compute an image that has its place in the engine's `image_rows`, unless it has been.

    After each tile it yields how many tiles are done; closing it between two leaves nothing.
    """
    table, encoder = engine.image_rows, engine.tile_encoder
    if table is None or encoder is None:
        raise EdgephiError("expected an engine that sees, found one that does not", hint="please report this")
    if table.is_filled(image.key):
        return
    import numpy as np

    tiles = []
    for done, tile in enumerate(image.pixels, 1):
        tiles.append(encoder.encode_tile(tile))
        _check_rows(tiles[-1], facts)
        yield done
    rows = np.concatenate([encoder.separators(), *tiles])  # some encoders know these beside a tile
    table.fill(image.key, rows[row_order(image.grid, facts)])


def _check_rows(rows: NDArray[np.float32], facts: ImageFacts) -> None:
    """Raise BadBundleError where an encoder is not the one that the manifest tells of."""
    expected = facts.side**2, facts.hidden_size
    if rows.shape != expected:
        raise BadBundleError(
            f"model: images: expected a tile to be {expected[0]} tokens of {expected[1]} numbers, found an "
            f"encoder that makes {' x '.join(map(str, rows.shape))} of it",
            hint=HINT,
        )
