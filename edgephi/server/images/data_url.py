"""The bytes of an image that stands in a request as base64: within a data URL (RFC 2397), or alone."""

from __future__ import annotations

import re
from base64 import b64decode

from edgephi.server.refusal import Refusal

SCHEME = "data:"

_HEAD = re.compile(r"data:(?P<type>[\w.+-]*/?[\w.+*-]*)(?:;[\w.+-]+=[^;,]{0,100})*;base64", re.IGNORECASE)
_LONGEST_HEAD = 300
_SHOWN = 40


def bytes_of_data_url(url: str, place: str) -> bytes:
    """What a data URL holds. Raises Refusal, which names `place`, for one that is no image in base64."""
    head, comma, text = url.partition(",")
    found = _HEAD.fullmatch(head) if len(head) <= _LONGEST_HEAD else None
    if not comma or found is None:
        raise Refusal(
            400, f"expected data:image/…;base64,…, found {head[:_SHOWN]!r} without base64", param=place
        )
    kind = found["type"].lower()
    # Clients that do not know the kind leave it out, or say that it is any bytes.
    if kind not in ("", "application/octet-stream") and not kind.startswith("image/"):
        raise Refusal(400, f"expected an image in the data URL, found {kind[:_SHOWN]!r}", param=place)
    return bytes_of_base64(text, place)


def bytes_of_base64(text: str, place: str) -> bytes:
    """What a text in base64 stands for, with line breaks or without. Raises Refusal, which names `place`."""
    try:
        found = b64decode(text, validate=True)
    except ValueError:  # also of letters that are no ASCII
        try:
            found = b64decode("".join(text.split()), validate=True)
        except ValueError:
            raise Refusal(
                400, "expected an image in base64, found other letters or a part of one", param=place
            ) from None
    if not found:
        raise Refusal(400, "expected an image, found no bytes", param=place)
    return found
