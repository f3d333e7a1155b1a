"""How the camera was held, out of a picture's EXIF: a TIFF's first table of numbers.

Read here and not by Pillow, which copies what every entry of the table points at: entries may all point at
the same bytes, and 500 KB of them become gigabytes.

Source: CIPA DC-008 (Exif 3.0), 4.6.2 and 4.6.5.
"""

from __future__ import annotations

from typing import Final, Literal

UPRIGHT = 1
_LAST_ORIENTATION = 8

_MARK = b"Exif\0\0"
_ORDERS: Final[dict[bytes, Literal["little", "big"]]] = {b"II": "little", b"MM": "big"}
_ORIENTATION = 0x0112
_ENTRY_BYTES = 12
_LONG = 4
"""The type of numbers of four bytes, which some programs take; those of the standard have two."""


def orientation_in(exif: bytes) -> int:
    """The orientation that EXIF tells, 1 to 8; that of an upright picture where it tells none."""
    tiff = exif.removeprefix(_MARK)
    order = _ORDERS.get(tiff[:2])
    if order is None:
        return UPRIGHT

    def number(place: int, size: int) -> int:
        return int.from_bytes(tiff[place : place + size], order)  # 0 behind the end

    table = number(4, 4)
    for place in range(table + 2, table + 2 + number(table, 2) * _ENTRY_BYTES, _ENTRY_BYTES):
        if number(place, 2) == _ORIENTATION:
            found = number(place + 8, 4 if number(place + 2, 2) == _LONG else 2)
            return found if UPRIGHT <= found <= _LAST_ORIENTATION else UPRIGHT
    return UPRIGHT
