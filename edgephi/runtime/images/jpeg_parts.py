"""How many parts a JPEG file has, of which a small file can have so many that decoding it takes an hour.

A progressive JPEG is a row of scans, and each goes over the whole picture: 75 bytes of one are enough for 50
million pixels. And Pillow joins what all segments of EXIF hold, one after the other.

Source: ITU-T T.81, B.1.1.
"""

from __future__ import annotations

import re

from edgephi.errors import BadInputError

MOST_SCANS = 100
"""Encoders make about ten."""
MOST_SEGMENTS = 1000
"""Files have a few dozen; one of 32 MiB of the largest segments has 512."""

# What begins a segment or a scan, and has a length behind it. Not 00 and FF, which are no markers; nor those
# of T.81 that stand alone; nor C8 and F0 to FD, which stand alone for Pillow.
_MARKER = re.compile(rb"\xff[\x02-\xbf\xc0-\xc7\xc9-\xcf\xd9-\xef\xfe]", re.DOTALL)
_SCAN, _END = 0xDA, 0xD9


def check_parts(data: bytes, name: str) -> None:
    """Raise BadInputError for a JPEG that no camera and no program writes. `name` is what errors call it."""
    scans = segments = place = 0
    while found := _MARKER.search(data, place):
        place = found.end()
        kind = data[place - 1]
        if kind == _END:
            if scans:
                return  # another picture may follow, or a film
            continue
        scans += kind == _SCAN
        segments += kind != _SCAN
        place += max(2, int.from_bytes(data[place : place + 2], "big"))
        for count, most, what in ((scans, MOST_SCANS, "scans"), (segments, MOST_SEGMENTS, "segments")):
            if count > most:
                raise BadInputError(
                    f"{name}: expected a JPEG of at most {most} {what}, found more",
                    hint="save it again with another program",
                )
