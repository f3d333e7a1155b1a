"""Which kinds of image files are read, told by their first bytes: a name may say anything.

Few, because every decoder is one more that strangers' files are given to.
"""

from __future__ import annotations

READ_KINDS = ("JPEG", "PNG", "WebP", "GIF", "BMP")

_BEGINNING = 64
"""Bytes in which a kind shows, behind white space."""

_MARKS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    "PDF": (b"%PDF",),
    "JPEG 2000": (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"),
    "JPEG XL": (b"\xff\x0a", b"\x00\x00\x00\x0cJXL "),
    "Photoshop": (b"8BPS",),
    "icon": (b"\x00\x00\x01\x00",),
    "gzip": (b"\x1f\x8b",),
    "zip": (b"PK\x03\x04",),
}
_RIFF, _FILE_TYPE = b"RIFF", b"ftyp"
_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"mif1": "HEIC",
    b"msf1": "HEIC",
}
_TEXTS = {
    b"<svg": "SVG",
    b"<!doctype svg": "SVG",
    b"<?xml": "XML or SVG",
    b"<!doctype html": "HTML",
    b"<html": "HTML",
}


def kind_of(data: bytes) -> str | None:
    """The kind of a file by its bytes, also of some that are not read; None for one that is not known."""
    for kind, marks in _MARKS.items():
        if data.startswith(marks):
            return kind
    if data.startswith(_RIFF):
        return "WebP" if data[8:12] == b"WEBP" else "RIFF"
    if data[4:8] == _FILE_TYPE:
        return _BRANDS.get(data[8:12], "video")
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:_BEGINNING].lower()
    return next((kind for mark, kind in _TEXTS.items() if text.startswith(mark)), None)
