"""Small files over which a decoder would take minutes, or gigabytes, are refused or read at once."""

from __future__ import annotations

import struct
import time
import zlib

import pytest
from PIL import Image

from edgephi.errors import BadInputError
from edgephi.runtime.images.decoding import MOST_PIXELS
from edgephi.runtime.images.exif import orientation_in
from edgephi.runtime.images.jpeg_parts import MOST_SCANS, MOST_SEGMENTS
from edgephi.runtime.images.seen_image import see
from edgephi.runtime.proof.measure import peak_memory_bytes
from tests.runtime.images.drawn import drawn, saved
from tests.runtime.images.published_processor import PUBLISHED

SECONDS = 5
"""More than any of these files takes, and far less than one that is decoded."""

_SCAN = b"\xff\xda"
_START = 2  # bytes, in front of a JPEG's segments


def read(data: bytes) -> Image.Image:
    started = time.monotonic()
    try:
        return see(data, PUBLISHED).picture()
    finally:
        assert time.monotonic() - started < SECONDS


def scanned(times: int, *, hidden: bytes = b"") -> bytes:
    """A progressive JPEG whose last scan is there so many times more, each behind `hidden`."""
    data = saved(drawn(40, 30), "JPEG", progressive=True)
    last = data[data.rindex(_SCAN) : -2]
    return data[:-2] + (hidden + last) * times + data[-2:]


@pytest.mark.parametrize("hidden", [b"", b"\xff\xff\xff", b"\xff\xfe\0\2", b"\xff\xd0", b"\xff\xf0"])
def test_a_jpeg_of_more_scans_than_anybody_writes_is_refused(hidden: bytes) -> None:
    with pytest.raises(BadInputError, match=f"expected a JPEG of at most {MOST_SCANS} scans, found more"):
        read(scanned(100_000, hidden=hidden))
    assert read(scanned(MOST_SCANS // 2)).size == (40, 30)


def test_what_stands_behind_a_jpegs_end_is_no_part_of_it() -> None:
    """Phones put a film there, in which any bytes may stand."""
    assert read(scanned(0) + _SCAN * 1_000_000).size == (40, 30)


@pytest.mark.parametrize("before", [b"", b"\xff\xd9", b"\xff\xf0\xff\xff", b"\xff\xff\xff"])
def test_a_jpeg_of_more_segments_than_anybody_writes_is_refused(before: bytes) -> None:
    data = saved(drawn(40, 30), "JPEG")
    segment = before + b"\xff\xe1" + struct.pack(">H", 9) + b"Exif\0\0a"
    with pytest.raises(BadInputError, match=f"at most {MOST_SEGMENTS} segments, found more"):
        read(data[:_START] + segment * 1_000_000 + data[_START:])
    assert read(data[:_START] + segment[len(before) :] * 100 + data[_START:]).size == (40, 30)


def test_exif_whose_entries_all_point_at_the_same_bytes_takes_no_memory() -> None:
    entries, each = 60_000, 1 << 20
    table = b"".join(struct.pack("<HHII", tag, 7, each, 8) for tag in range(0x200, 0x200 + entries))
    exif = b"II*\0" + struct.pack("<IH", 8, entries) + table + bytes(4 + each)
    plain = saved(drawn(40, 30), "PNG")
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    before = peak_memory_bytes()
    assert read(plain[:33] + chunk + plain[33:]).size == (40, 30)
    assert peak_memory_bytes() - before < 100 << 20


@pytest.mark.parametrize("comments", [b"!\xfe" + b"\xffabc" * 64 * 30_000 + b"\0", b"!\xfe\1a\0" * 1_000_000])
def test_long_comments_of_a_gif_take_no_time(comments: bytes) -> None:
    data = saved(drawn(40, 30), "GIF")
    place = data.index(b",\0\0\0\0\x28\0\x1e\0")
    assert read(data[:place] + comments + data[place:]).size == (40, 30)


def test_a_bmp_with_run_length_encoding_is_refused() -> None:
    """One line of it may ask for 255 lines of nothing."""
    colours, pixels = bytes(4 * 256), b"\0\2\0\xff" + b"\1\1" * 1_000_000
    start = 14 + 40 + len(colours)
    header = struct.pack("<IiiHHIIiiII", 40, MOST_PIXELS, 1, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    data = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + colours + pixels
    with pytest.raises(BadInputError, match="not compressed, found one with run-length encoding"):
        read(data)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "form"), [(3, "HH"), (4, "I")])
@pytest.mark.parametrize(("told", "found"), [(6, 6), (1, 1), (8, 8), (0, 1), (9, 1)])
def test_the_orientation_in_exif(order: str, kind: int, form: str, told: int, found: int) -> None:
    value = struct.pack(order + form, *([told, 0] if form == "HH" else [told]))
    first = struct.pack(order + "HHI", 0x010F, 2, 1) + b"a\0\0\0"
    entry = struct.pack(order + "HHI", 0x0112, kind, 1) + value
    mark = b"II" if order == "<" else b"MM"
    tiff = mark + struct.pack(order + "HIH", 42, 8, 2) + first + entry + bytes(4)
    assert orientation_in(tiff) == found
    assert orientation_in(b"Exif\0\0" + tiff) == found
    for end in range(len(tiff)):
        assert orientation_in(tiff[:end]) in range(1, 9)
