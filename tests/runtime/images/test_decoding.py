"""Image files become pixels in red, green and blue, upright, whatever form they have; the rest is refused."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgephi.errors import BadInputError
from edgephi.runtime.images import SeenImage, decoding, seen_image
from edgephi.runtime.images.seen_image import see
from tests.runtime.images.drawn import drawn, saved
from tests.runtime.images.published_processor import PUBLISHED

SIZE = (40, 30)


def seen(source: object) -> SeenImage:
    return see(source, PUBLISHED)


def pixels(source: object) -> np.ndarray:
    """The picture as it is read, [height, width, 3]."""
    image = seen(source)
    picture = image.picture()
    assert picture.mode == "RGB"
    assert picture.size == (image.width, image.height)
    return np.asarray(picture)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "JPEG", "WEBP"])
def test_each_kind_is_read_as_pillow_reads_it(kind: str, tmp_path: Path) -> None:
    data = saved(drawn(*SIZE), kind)
    file = tmp_path / "picture"
    file.write_bytes(data)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    for source in (data, bytearray(data), memoryview(data), file, str(file)):
        assert np.array_equal(pixels(source), expected)


def test_a_pipe_is_read_as_a_file_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = saved(drawn(*SIZE), "PNG")
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    assert np.array_equal(pixels(pipe), np.asarray(drawn(*SIZE)))
    writer.join()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_is_turned_as_its_camera_says(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(drawn(*SIZE), kind, exif=exif)
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert upright is not None
    assert np.array_equal(pixels(data), np.asarray(upright))


def test_what_is_transparent_shows_white() -> None:
    colours = np.zeros((2, 2, 4), np.uint8)
    colours[..., 0] = 200
    colours[0, 0, 3], colours[0, 1, 3] = 255, 128
    half = 255 - round(128 / 255 * 255), 255 - 128
    expected = [[(200, 0, 0), (200 * 128 // 255 + half[0], *half)], [(255, 255, 255)] * 2]
    for source in (colours, Image.fromarray(colours), saved(Image.fromarray(colours), "PNG")):
        assert np.abs(pixels(source).astype(int) - expected).max() <= 1


def test_a_transparent_colour_of_a_palette_shows_white() -> None:
    picture = Image.new("P", SIZE, 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    assert (pixels(saved(picture, "GIF")) == (10, 20, 30)).all()
    assert (pixels(saved(picture, "GIF", transparency=1)) == 255).all()
    assert (pixels(saved(picture, "PNG", transparency=1)) == 255).all()


@pytest.mark.parametrize(
    ("bits", "grey", "samples", "transparent", "other"),
    [
        (1, True, b"\x40", b"\0\1", 0),
        (2, True, b"\x60", b"\0\1", 170),
        (4, True, b"\x45", b"\0\4", 85),
        (8, True, b"\x45\x46", b"\0\x45", 0x46),
        (16, True, b"\x12\x34\x56\x78", b"\x12\x34", 0x56),
        (8, False, b"\1\1\1\2\2\2", b"\0\1" * 3, 2),
        (16, False, b"\x12\x34" * 3 + b"\x56\x78" * 3, b"\x12\x34" * 3, 0x56),
    ],
)
def test_a_transparent_colour_shows_white_whatever_its_bits(
    bits: int, grey: bool, samples: bytes, transparent: bytes, other: int
) -> None:
    first = 1 if bits == 1 else 0
    found = pixels(_png(2, 1, samples, bits=bits, grey=grey, transparent=transparent))
    assert (found[0, first] == 255).all()
    assert (found[0, 1 - first] == other).all()


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "LAB", "HSV"])
def test_colours_of_other_kinds_become_red_green_and_blue(mode: str) -> None:
    picture = drawn(*SIZE).convert("RGB" if mode == "LAB" else mode)
    if mode == "LAB":
        from PIL import ImageCms

        to_lab = ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
        )
        picture = ImageCms.applyTransform(picture, to_lab)
    assert np.array_equal(pixels(picture), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize(("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("1", "PNG"), ("L", "PNG")])
def test_so_they_do_out_of_files(mode: str, kind: str) -> None:
    data = saved(drawn(*SIZE).convert(mode), kind)
    assert np.array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_of_sixteen_bits_the_upper_eight_are_kept() -> None:
    grey = np.arange(30 * 40, dtype=np.uint16).reshape(30, 40) * 50
    expected = np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    for source in (grey, grey[..., None], Image.fromarray(grey), saved(Image.fromarray(grey), "PNG")):
        assert np.array_equal(pixels(source), expected)
    colours = np.stack([grey, grey, grey], axis=-1)
    assert np.array_equal(pixels(colours), expected)
    assert np.array_equal(pixels(_png(40, 30, colours.astype(">u2").tobytes(), bits=16)), expected)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken_and_that_is_said(kind: str, tmp_path: Path) -> None:
    frames = [drawn(*SIZE, seed=seed) for seed in range(3)]
    options = {"lossless": True} if kind == "WEBP" else {}
    file = tmp_path / "moving"
    file.write_bytes(saved(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert seen(file).remark == f"{file}: animated, its first frame is taken"
    assert np.array_equal(pixels(file), np.asarray(Image.open(file).convert("RGB")))
    assert seen(saved(frames[0], kind)).remark == ""


def test_a_phones_jpeg_with_a_second_picture_is_no_animation() -> None:
    data = saved(drawn(*SIZE), "MPO", save_all=True, append_images=[drawn(20, 15)])
    assert seen(data).remark == ""
    assert pixels(data).shape == (30, 40, 3)


def test_an_array_is_copied() -> None:
    array = np.array(drawn(*SIZE))
    image = seen(array)
    array[:] = 0
    assert np.array_equal(np.asarray(image.picture()), np.asarray(drawn(*SIZE)))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "an empty file"),
        (b"hello, world", "something else"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG, which is drawn and has no pixels"),
        (b"\xef\xbb\xbf <?xml version='1.0'?><svg/>", "XML or SVG, which is drawn and has no pixels"),
        (b"%PDF-1.7", "PDF"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"II*\x00\x08\x00\x00\x00", "TIFF"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00", "HEIC"),
        (b"\x00\x00\x00\x18ftypavif\x00\x00", "AVIF"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00", "video"),
        (b"RIFF\x00\x00\x00\x00WAVE", "RIFF"),
        (b"PK\x03\x04", "zip"),
    ],
)
def test_what_is_no_image_is_called_by_its_name(data: bytes, found: str) -> None:
    with pytest.raises(BadInputError) as caught:
        seen(data)
    end = "" if not data else " JPEG, PNG, WebP, GIF or BMP"
    assert caught.value.message == f"image: expected {'an' if not data else 'a'}{end} image, found {found}"
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "JPEG", "WEBP"])
def test_a_file_that_is_cut_off_is_refused(kind: str) -> None:
    data = saved(drawn(*SIZE), kind)
    for end in (12, len(data) // 4, len(data) // 2, len(data) * 3 // 4):
        with pytest.raises(BadInputError) as caught:
            pixels(data[:end])
        assert "cut off or broken" in caught.value.message
        assert "\n" not in caught.value.message


def test_errors_of_files_name_them(tmp_path: Path) -> None:
    for name, content in {"a\x1b.png": b"no", "b.png": saved(drawn(9, 9), "PNG")[:60]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInputError) as caught:
            pixels(tmp_path / name)
        assert caught.value.message.startswith(f"{tmp_path}/{name}:".replace("\x1b", r"\x1b"))
    for wrong in (tmp_path, tmp_path / "missing.png", "nul\0l"):
        with pytest.raises(BadInputError):
            seen(wrong)


_NO_IMAGES = {
    "nothing": None,
    "a number": 3,
    "lists": [[1, 2], [3, 4]],
    "two channels": np.zeros((3, 4, 2), np.uint8),
    "four axes": np.zeros((3, 4, 5, 3), np.uint8),
    "one axis": np.zeros(7, np.uint8),
    "float32": np.zeros((4, 4, 3), np.float32),
    "no rows": np.zeros((0, 4, 3), np.uint8),
    "mode F": Image.new("F", (3, 3)),
    "mode I": Image.new("I", (3, 3)),
    "no columns": Image.new("RGB", (0, 3)),
}


@pytest.mark.parametrize("source", _NO_IMAGES.values(), ids=_NO_IMAGES)
def test_what_a_program_gives_that_is_no_image_is_refused(source: object) -> None:
    with pytest.raises(BadInputError):
        seen(source)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "JPEG", "WEBP"])
def test_a_bomb_is_refused_by_its_header(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them holds what its header promises: were they decoded, they would be called broken."""
    side = {"WEBP": 16_383}.get(kind, 50_000)
    data = {
        "PNG": _png(side, side, b""),
        "BMP": _bmp(side),
        "GIF": b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + b"\x2c" + b"\0" * 9 + b"\x02\0;",
        "JPEG": saved(drawn(8, 8), "JPEG").replace(b"\0\x08\0\x08\x03", struct.pack(">HHB", side, side, 3)),
        "WEBP": _webp(side),
    }[kind]
    monkeypatch.setattr(Image.Image, "load", lambda _self: pytest.fail("decoded"))
    with pytest.raises(BadInputError, match="expected an image of at most 50 million pixels"):
        seen(data)


def test_pixels_that_a_program_has_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MOST_PIXELS", 1_000_000)
    for source in (np.zeros((1001, 1000), np.uint8), Image.new("RGB", (1000, 1001))):
        with pytest.raises(BadInputError, match="expected an image of at most 1 million pixels"):
            seen(source)


def test_a_file_that_is_too_large_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_image, "MOST_FILE_BYTES", 1 << 20)
    for source in ("/dev/zero", b"\0" * ((1 << 20) + 1)):
        with pytest.raises(BadInputError, match="expected an image file of at most 1 MiB"):
            seen(source)


def _png(
    width: int, height: int, samples: bytes, *, bits: int = 8, grey: bool = False, transparent: bytes = b""
) -> bytes:
    """A PNG in red, green and blue, or in grey, of so many bits, with a colour that is transparent."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    line = len(samples) // height
    lines = b"".join(b"\0" + samples[start : start + line] for start in range(0, len(samples), line or 1))
    header = struct.pack(">IIBBBBB", width, height, bits, 0 if grey else 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"tRNS", transparent) if transparent else b"")
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def _bmp(side: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def _webp(side: int) -> bytes:
    """The header of a canvas, and a small picture that is to fill it."""
    canvas = struct.pack("<I", side - 1)[:3] * 2
    extended = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas
    data = b"WEBP" + extended + saved(drawn(8, 8), "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(data)) + data
