"""How large the body of a request may be, with images and without."""

from __future__ import annotations

import asyncio
import base64
import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from starlette.requests import Request

from edgephi.server.http.request_body import read_body
from edgephi.server.images.room import ImageRoom
from edgephi.server.refusal import Refusal

TEXTS, IMAGES = 10_000, 200_000
IMAGE = base64.b64encode(bytes(range(256)) * 400).decode()


class _Body(msgspec.Struct):
    content: Any


def read(data: bytes, room: ImageRoom, *, announced: bool = True) -> Any:
    """What is read of a body that comes in parts; it leaves the room again."""

    async def found() -> Any:
        parts = [data[start : start + 1000] for start in range(0, len(data), 1000)]
        length = [(b"content-length", str(len(data)).encode())] if announced else []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        headers = [(b"content-type", b"application/json"), *length]
        with room.place() as place:
            request = Request({"type": "http", "headers": headers}, receive)
            return (await read_body(request, _Body, TEXTS, images=place)).content

    return asyncio.run(found())


def room() -> ImageRoom:
    return ImageRoom(2 * IMAGES, IMAGES)


@pytest.mark.parametrize(
    "written",
    [
        json.dumps({"content": IMAGE}),
        json.dumps({"content": f"data:image/png;base64,{IMAGE}"}),
        json.dumps({"content": f"data:image/png;base64,{IMAGE}"}).replace("/", "\\/"),  # as PHP has it
        json.dumps({"content": "\n".join(IMAGE[i : i + 76] for i in range(0, len(IMAGE), 76))}),
        json.dumps({"content": [{"url": IMAGE[:1024]}] * 100}),
    ],
    ids=["base64", "a data URL", "escaped", "in lines", "many"],
)
@pytest.mark.parametrize("announced", [True, False])
def test_images_do_not_count_as_text(written: str, announced: bool) -> None:
    assert len(written) > 10 * TEXTS
    assert read(written.encode(), room(), announced=announced) == json.loads(written)["content"]


@pytest.mark.parametrize(
    "written",
    [
        json.dumps({"content": "no image, but words " * 1000}),
        json.dumps({"content": [IMAGE, "words " * 2000]}),
        json.dumps({"content": [[]] * 10_000}),
        json.dumps({"content": [""] * 10_000}),
        json.dumps({"content": [IMAGE[:1000]] * 20}),
        '{"content": "' + '\\"' * 20_000 + '"}',
        '{"content": "' + "é" * 20_000 + '"}',
    ],
    ids=["words", "words beside", "lists", "empty texts", "short texts", "quotes", "letters"],
)
def test_all_else_counts(written: str) -> None:
    with pytest.raises(Refusal, match=f"{TEXTS} bytes beside its images") as caught:
        read(written.encode(), room())
    assert (caught.value.status, caught.value.error.error.code) == (413, "body_too_large")


@pytest.mark.parametrize("announced", [True, False])
def test_images_have_a_bound_too(announced: bool) -> None:
    with pytest.raises(Refusal, match=f"{TEXTS + IMAGES} bytes") as caught:
        read(json.dumps({"content": IMAGE * 2}).encode(), room(), announced=announced)
    assert caught.value.status == 413


def test_others_hold_the_room() -> None:
    full = room()
    full.place().take(IMAGES + IMAGES // 2)
    with pytest.raises(Refusal) as caught:
        read(json.dumps({"content": IMAGE}).encode(), full)
    assert (caught.value.status, caught.value.error.error.code) == (429, "images_full")
    assert full.held == IMAGES + IMAGES // 2


def test_what_a_text_model_reads_has_no_room_for_images() -> None:
    with pytest.raises(Refusal) as caught:
        read(json.dumps({"content": IMAGE}).encode(), ImageRoom(0, 0))
    assert caught.value.status == 413


def test_what_is_refused_takes_no_more_memory_than_its_bytes() -> None:
    written = b'{"content": [' + b"{}," * 60_000
    tracemalloc.start()
    with pytest.raises(Refusal):
        read(written, room())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * len(written)  # the test itself holds two
