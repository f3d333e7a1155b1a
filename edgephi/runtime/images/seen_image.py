"""An image of which the size is known, and so how many tokens it is; its pixels are not decoded yet.

A prompt that leaves no room in the context is refused by these numbers, before anything is computed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.bundle.image_tokens import MOST_CROPS, ImageFacts, grid_of, resized_size, token_count
from edgephi.errors import BadInputError, UsageError, from_os_error
from edgephi.guards.visible import visible
from edgephi.runtime.images.decoding import (
    MOST_FILE_BYTES,
    check_size,
    decode,
    in_plain_colours,
    pillow,
    read_header,
    refusing_broken,
)

if TYPE_CHECKING:
    from PIL.Image import Image

ImageSource = Any
"""A path, the bytes of a file, an array or an image of Pillow; or one that was looked at, a SeenImage.

An array is [height, width] or [height, width, 1, 3 or 4] of uint8 or uint16: red, green, blue and opacity.
"""

_ARRAY_FORM = "an array is [height, width] or [height, width, 1, 3 or 4] of uint8 or uint16, red first"


@dataclass(frozen=True, eq=False)
class SeenImage:
    """An image that was looked at for one model.

    `data` is its file, or its pixels where there is none. `width` and `height` are those of the upright
    picture, `resized` what it becomes before it is padded to `grid`: rows and columns of tiles. It is
    `tokens` tokens. `key` tells apart whatever a model could see differently. `remark` says what of it is
    left out, or is "".
    """

    name: str
    data: bytes | Image
    width: int
    height: int
    resized: tuple[int, int]
    grid: tuple[int, int]
    tokens: int
    key: str
    remark: str = ""

    def picture(self) -> Image:
        """Its pixels, upright, in red, green and blue of 8 bits. Raises BadInputError for a broken file."""
        return decode(self.data, self.name) if isinstance(self.data, bytes) else self.data


def see(
    source: ImageSource, facts: ImageFacts, crops: int | None = None, *, name: str = "image"
) -> SeenImage:
    """Look at an image: its header, where it is a file. `crops` is the most tiles, None the model's own.

    `name` is what errors call it, if it is no file. Raises BadInputError for what is no image that can be
    read, and UsageError for a number of crops that makes no sense.
    """
    check_crops(crops)
    if isinstance(source, SeenImage):
        return source
    if isinstance(source, str | os.PathLike):
        name = visible(os.fspath(source))
        source = _read(Path(source))
    remark = ""
    data: bytes | Image
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        _check_bytes(len(data), name)
        header = read_header(data, name)
        width, height = header.width, header.height
        if header.is_animated:
            remark = f"{name}: animated, its first frame is taken"
    else:
        data = _pixels(source, name)
        width, height = data.size
    resized = resized_size(width, height, facts, crops)
    if 0 in resized:
        raise BadInputError(
            f"{name}: expected an image of whose narrow side something is left when its long one becomes "
            f"{max(resized)} pixels, found {width} x {height}",
            hint="cut out a part of it",
        )
    grid = grid_of(width, height, facts, crops)
    key = f"{_hash(data)}:{resized[0]}x{resized[1]}"
    return SeenImage(name, data, width, height, resized, grid, token_count(grid, facts), key, remark)


def check_crops(crops: int | None) -> None:
    """Raise UsageError for a number of tiles that no image can be cut into."""
    if crops is not None and not 1 <= crops <= MOST_CROPS:
        raise UsageError(
            f"expected 1 to {MOST_CROPS} crops, found {crops}",
            hint="4 to 16 are usual; fewer are fewer tokens",
        )


def _read(path: Path) -> bytes:
    """The bytes of a file, or so many that it is too large; a pipe is read to its end."""
    try:
        with path.open("rb") as file:
            return file.read(MOST_FILE_BYTES + 1)
    except OSError as cause:
        raise from_os_error(cause, place=visible(str(path))) from None
    except ValueError:  # a null character
        raise BadInputError(
            f"{visible(str(path))}: expected the path of a file", hint="give another"
        ) from None


def _check_bytes(count: int, name: str) -> None:
    if count > MOST_FILE_BYTES:
        raise BadInputError(
            f"{name}: expected an image file of at most {MOST_FILE_BYTES >> 20} MiB, found a larger one",
            hint="make it smaller, or save it as a JPEG",
        )


def _pixels(source: Any, name: str) -> Image:
    """A copy of pixels that a program has, in red, green and blue of 8 bits."""
    library = pillow()
    if isinstance(source, library.Image):
        check_size(source.width, source.height, name)
        with refusing_broken(name):
            source.load()
            plain: Image = in_plain_colours(source, name)
            return plain.copy() if plain is source else plain
    import numpy as np

    if not isinstance(source, np.ndarray):
        raise BadInputError(
            f"{name}: expected a path, the bytes of a file, an array or an image of Pillow, "
            f"found {type(source).__name__}",
            hint=_ARRAY_FORM,
        )
    shape = source.shape
    if (
        source.dtype not in (np.uint8, np.uint16)
        or not 2 <= len(shape) <= 3
        or shape[2:] not in ((), (1,), (3,), (4,))
    ):
        raise BadInputError(
            f"{name}: expected an array of pixels, found {source.dtype} {list(shape)}", hint=_ARRAY_FORM
        )
    check_size(shape[1], shape[0], name)
    if source.dtype == np.uint16:
        source = (source >> 8).astype(np.uint8)
    if shape[2:] == (1,):
        source = source[:, :, 0]
    return in_plain_colours(library.fromarray(np.ascontiguousarray(source)), name)


def _hash(data: bytes | Image) -> str:
    """The SHA-256 of a file, or of a picture: both differ wherever the pixels do."""
    import hashlib

    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    hashed = hashlib.sha256(b"%dx%d" % data.size)
    hashed.update(data.tobytes())
    return hashed.hexdigest()
