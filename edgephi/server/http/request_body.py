"""The body of a request, as a type of it."""

from __future__ import annotations

import asyncio
import re
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from edgephi.server.images.room import Place
from edgephi.server.refusal import CLIENT_GONE, Refusal

_BODY_SECONDS = 60.0  # for a client to send all of a request

_JSON_TYPE = re.compile(r"application/(?:[a-z0-9.!#$&^_-]+\+)?json")

# As JSON has it: some clients write "\/" for "/", others break lines with "\n".
_LONG_BASE64 = re.compile(rb'"(?:data:[\w/+.;=\\-]{1,100},)?[A-Za-z0-9+/=\\]{1024,}+"')

Body = TypeVar("Body", bound=msgspec.Struct)


async def read_body(
    request: Request,
    kind: type[Body],
    most_bytes: int,
    *,
    images: Place | None = None,
    may_lack_type: bool = False,
) -> Body:
    """The body of a request. Raises Refusal when it is too large, too slow, or not what it should be.

    `images` is room for images in it, beside the `most_bytes` for all else; None: there are none.
    `may_lack_type`: whether a body is taken that is not called anything.
    """
    kinds = request.headers.getlist("content-type")
    if kinds or not may_lack_type:
        _check_content_type(kinds)
    if "content-encoding" in request.headers:
        raise Refusal(415, "expected content without an encoding", param="content-encoding")
    most_with_images = most_bytes + (0 if images is None else images.most)
    too_large = Refusal(
        413, f"expected a body of at most {most_with_images} bytes, found more", code="body_too_large"
    )
    announced = request.headers.get("content-length", "0")
    if len(announced) > 18 or int(announced) > most_with_images:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                if len(data) + len(part) > most_with_images:
                    raise too_large
                if images is not None and len(data) + len(part) > most_bytes:
                    images.take(len(part))
                data += part
    except TimeoutError:
        raise Refusal(408, f"expected the whole body within {_BODY_SECONDS:.0f} s") from None
    except ClientDisconnect:
        raise Refusal(CLIENT_GONE, "the client did not wait") from None
    if len(data) > most_bytes:
        _check_texts(data, most_bytes)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as cause:
        message, _, place = str(cause).partition(" - at ")
        # "`$.stop[0]`", or "`key` in `$.logit_bias`", whose values are in "`$.logit_bias[...]`".
        param = place.rpartition("`$.")[2].strip("`").removesuffix("[...]") or _unknown_field(message)
        raise Refusal(400, f"{param}: {message}" if place else message, param=param or None) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as cause:
        raise Refusal(400, f"expected JSON in UTF-8, found {cause}", code="invalid_json") from None


def _check_texts(data: bytearray, most_bytes: int) -> None:
    """Raise Refusal (413) for a body that is large by anything but texts in base64.

    What a stranger's JSON holds takes many times its bytes as objects; a long text takes its bytes.
    """
    # Each quotation mark is one of the other bytes; without so many, looking for texts is quick.
    others = data.count(b'"')
    if others <= most_bytes:
        others = len(data) - sum(match.end() - match.start() for match in _LONG_BASE64.finditer(data))
    if others > most_bytes:
        raise Refusal(
            413,
            f"expected a body of at most {most_bytes} bytes beside its images, found more",
            code="body_too_large",
        )


def _check_content_type(given: list[str]) -> None:
    """Raise Refusal (415) unless a body is called JSON.

    None at all, and the types of forms and plain text, are what a browser sends for a page of any site
    without asking us first: taking them for JSON would let every page use the model.
    """
    kinds = [each.partition(";")[0].strip().lower() for each in given]
    if len(kinds) != 1 or not _JSON_TYPE.fullmatch(kinds[0]):
        found = repr(", ".join(kinds)[:100]) if kinds else "none"
        raise Refusal(
            415, f"expected the header Content-Type: application/json, found {found}", param="content-type"
        )


def _unknown_field(message: str) -> str:
    """The member that msgspec complains about at the top of a document."""
    before, _, rest = message.partition("unknown field `")
    return rest.partition("`")[0] if before else ""
