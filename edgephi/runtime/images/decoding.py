"""From the bytes of an image file to its pixels, within limits that hold before anything is decoded.

Files come from strangers. Only the header is read to learn the size, and what is larger than `MOST_PIXELS` is
refused there, so that no small file can ask for gigabytes. Pillow decodes; whatever it raises for a file that
is broken becomes a BadInputError of one line.

What is not red, green and blue of 8 bits becomes that: transparent parts show white, of 16 bits the upper 8
are kept, and a picture is turned as its camera says. Of an animation the first frame is taken.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgephi.commands import install_command
from edgephi.errors import BadInputError, DoesNotFitError, EdgephiError, NotSupportedError
from edgephi.guards.visible import visible
from edgephi.runtime.images.exif import UPRIGHT, orientation_in
from edgephi.runtime.images.file_kinds import READ_KINDS, kind_of
from edgephi.runtime.images.jpeg_parts import check_parts

if TYPE_CHECKING:
    from types import ModuleType

    from PIL.Image import Image

MOST_FILE_BYTES = 32 << 20
MOST_PIXELS = 50_000_000
"""More than a phone's camera gives; decoded they take 200 MB, and for a moment up to five times that."""

# How a picture of each orientation of EXIF is set upright; from 5 on width and height change places.
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_FIRST_TURNED = 5
# Pixels of a PNG as they are in the file, by Pillow's names: grey of so few bits, and colours of 16.
_RAW_FACTORS: dict[object, int] = {"L;2": 85, "L;4": 17}
_RAW_COLOURS = "RGB;16B"
_LONGEST_REASON = 100
# Pillow's for a BMP with run-length encoding, which few have: in Python, and so it takes up to half a minute.
_SLOW_DECODER = "bmp_rle"
_CONVERT = "save it as a PNG or a JPEG"


@dataclass(frozen=True)
class Header:
    """What a file says of its picture: its size in pixels when upright, and whether more frames follow."""

    width: int
    height: int
    is_animated: bool


def read_header(data: bytes, name: str) -> Header:
    """Look at the header of an image file. `name` is what errors call it.

    Raises BadInputError for what is no image, is of a kind that is not read, or is too large.
    """
    with _opened(data, name) as image:
        width, height = image.size
        if _orientation(image) >= _FIRST_TURNED:
            width, height = height, width
        # A phone's JPEG may hold more pictures, such as one of depths: no frames.
        is_animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
        return Header(width, height, is_animated)


def decode(data: bytes, name: str) -> Image:
    """The picture of an image file: upright, in red, green and blue of 8 bits. Raises as `read_header`."""
    with _opened(data, name) as image:
        orientation = _orientation(image)
        _scale_transparent(image)
        image.load()
        plain = in_plain_colours(image, name)
        if orientation in _UPRIGHT:
            plain = plain.transpose(pillow().Transpose[_UPRIGHT[orientation]])
        return plain


def in_plain_colours(image: Image, name: str) -> Image:
    """A picture in red, green and blue of 8 bits, what is transparent in front of white.

    Raises BadInputError for one whose numbers could mean anything.
    """
    if image.mode.startswith("I;16"):
        image = _upper_bits(image)
    if image.mode in ("I", "F"):
        raise BadInputError(
            f"{name}: expected pixels of 8 or 16 bits, found numbers of 32 bits",
            hint="scale them to 0 to 255 first, and give them as 8 bits",
        )
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        white = pillow().new("RGB", image.size, "white")
        white.paste(with_alpha, mask=with_alpha.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def check_size(width: int, height: int, name: str) -> None:
    """Raise BadInputError for more pixels than are decoded, or none."""
    if width < 1 or height < 1:
        raise BadInputError(
            f"{name}: expected an image with pixels, found {width} x {height}", hint="give another one"
        )
    if width * height > MOST_PIXELS:
        raise BadInputError(
            f"{name}: expected an image of at most {MOST_PIXELS // 1_000_000} million pixels, "
            f"found {width} x {height}",
            hint="make it smaller first: the model sees a few hundred pixels of each part",
        )


def pillow() -> ModuleType:
    """The module Image of Pillow. Raises NotSupportedError where it is not installed."""
    try:
        return importlib.import_module("PIL.Image")
    except ImportError:
        raise NotSupportedError(
            "images are read with Pillow, which is not installed", hint=install_command("vision")
        ) from None


@contextlib.contextmanager
def refusing_broken(name: str) -> Iterator[None]:
    """Whatever Pillow raises, of which there is much, becomes one line; its warnings are not shown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except EdgephiError:
        raise
    except MemoryError:
        raise DoesNotFitError(
            f"{name}: there is not enough memory to decode it", hint="stop other programs, or make it smaller"
        ) from None
    except Exception as cause:
        reason = visible(" ".join(str(cause).split()) or type(cause).__name__)
        raise BadInputError(
            f"{name}: expected a whole image, found one that is cut off or broken: "
            f"{reason[:_LONGEST_REASON]}",
            hint=f"copy it again, or {_CONVERT} with another program",
        ) from cause


@contextlib.contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image]:
    """An image file whose header has been read and is within the limits."""
    kind = kind_of(data)
    if kind not in READ_KINDS:
        raise _not_read(data, kind, name)
    library = pillow()
    if kind == "JPEG":
        check_parts(data, name)
    with refusing_broken(name):
        from PIL import WebPImagePlugin  # noqa: F401 - Pillow would else load the decoders of all kinds

        try:
            image = library.open(io.BytesIO(data), formats=(kind,))
        except library.DecompressionBombError:
            raise BadInputError(
                f"{name}: expected an image of at most {MOST_PIXELS // 1_000_000} million pixels, "
                "found several times as many",
                hint="make it smaller first",
            ) from None
        except library.UnidentifiedImageError:
            raise BadInputError(
                f"{name}: expected a whole image, found one whose header is cut off or broken",
                hint=f"copy it again, or {_CONVERT} with another program",
            ) from None
        with image:
            width, height = image.size
            check_size(width, height, name)
            if any(tile[0] == _SLOW_DECODER for tile in image.tile):
                raise BadInputError(
                    f"{name}: expected a BMP that is not compressed, found one with run-length encoding",
                    hint=f"{_CONVERT} first",
                )
            yield image


def _not_read(data: bytes, kind: str | None, name: str) -> BadInputError:
    """Why a file is no image that is read."""
    expected = f"{', '.join(READ_KINDS[:-1])} or {READ_KINDS[-1]}"
    if not data:
        return BadInputError(f"{name}: expected an image, found an empty file", hint="give another one")
    found = kind or "something else"
    hint = f"{_CONVERT} first"
    if kind in ("SVG", "XML or SVG"):
        found, hint = (
            f"{kind}, which is drawn and has no pixels",
            "save it as a PNG of the size that you want",
        )
    return BadInputError(f"{name}: expected a {expected} image, found {found}", hint=hint)


def _orientation(image: Image) -> int:
    """How the camera was held, by EXIF: 1 to 8. A picture whose EXIF cannot be read is upright.

    That of a PNG may stand behind the pixels, where it does not count: they are not decoded to look there.
    """
    exif = image.info.get("exif")
    return orientation_in(exif) if isinstance(exif, bytes) else UPRIGHT


def _scale_transparent(image: Image) -> None:
    """Bring the colour of a PNG that is transparent to the 8 bits that its pixels get.

    Pillow scales pixels of 2, 4 and 16 bits, and leaves that colour as it was written.
    """
    raw, found = image.tile[0][3] if image.tile else None, image.info.get("transparency")
    if raw in _RAW_FACTORS and isinstance(found, int):
        image.info["transparency"] = found * _RAW_FACTORS[raw]
    elif raw == _RAW_COLOURS and isinstance(found, tuple):
        image.info["transparency"] = tuple(each >> 8 for each in found)


def _upper_bits(image: Image) -> Image:
    """A grey picture of 16 bits in 8, and so the grey that is transparent."""
    import numpy as np

    grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
    found: Image = pillow().fromarray(grey)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        found.info["transparency"] = transparent >> 8
    return found
