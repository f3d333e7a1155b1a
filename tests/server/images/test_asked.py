"""What of the images in a request is taken, and what is refused."""

import asyncio
import base64
from typing import Any

import pytest

from edgephi.server.images.asked import AskedImages, Sight
from edgephi.server.images.parts import crops_of, parts_or_text
from edgephi.server.images.room import ImageRoom
from edgephi.server.refusal import Refusal
from tests.server.images.facts import FACTS

URL = "data:image/png;base64,AAEC"


def asked(context: int = 4096, *, sees: bool = True, before: tuple[bytes, ...] = ()) -> AskedImages:
    sight = Sight(FACTS if sees else None, context)
    return AskedImages(sight, ImageRoom(2000, 1000).place(), before)


def test_parts_say_which_image_they_are_about() -> None:
    images = asked(before=(b"old",))
    assert images.at_url(URL, "x") == {"type": "image", "image": 1}
    assert images.in_base64(base64.b64encode(b"new").decode(), "x") == {"type": "image", "image": 2}
    assert images.at_url(URL, "x", 1) == {"type": "image", "image": 3, "crops": 1}
    assert asyncio.run(images.all_fetched()) == (b"old", b"\0\1\2", b"new", b"\0\1\2")


@pytest.mark.parametrize(
    "url",
    ["/etc/passwd", "file:///etc/passwd", "photo.jpg", "", "ftp://example.com/a.png", "//example.com/a"],
)
def test_files_are_never_read(url: str) -> None:
    with pytest.raises(Refusal, match="no files are read") as caught:
        asked().at_url(url, "x")
    assert caught.value.status == 400


@pytest.mark.parametrize("url", ["http://example.com/a.png", "HTTPS://example.com/a.png"])
def test_addresses_are_refused_with_the_option_that_allows_them(url: str) -> None:
    with pytest.raises(Refusal, match="--image-urls public"):
        asked().at_url(url, "x")


def test_a_model_that_reads_text_only_says_what_to_do() -> None:
    for take in (asked(sees=False).at_url, asked(sees=False).in_base64):
        with pytest.raises(Refusal, match="reads text only; leave the image out, or serve a model that sees"):
            take(URL, "x")


def test_more_images_than_the_context_can_hold_are_refused_by_their_number() -> None:
    images = asked(context=1000)  # 313 tokens an image at least
    for _ in range(3):
        images.at_url(URL, "x")
    with pytest.raises(Refusal, match="4 images are 1252 tokens at least") as caught:
        images.at_url(URL, "x")
    assert caught.value.error.error.code == "context_length_exceeded"


def test_images_from_before_take_their_place() -> None:
    with pytest.raises(Refusal) as caught:
        asked(before=(b"x" * 1500, b"y" * 600))
    assert caught.value.status == 413


def test_texts_alone_are_one_text() -> None:
    texts: list[dict[str, Any]] = [{"type": "text", "text": text} for text in "ab"]
    assert parts_or_text(texts) == "a\nb"
    with_image = [texts[0], {"type": "image", "image": 0}]
    assert parts_or_text(with_image) == with_image


def test_how_closely_an_image_is_looked_at() -> None:
    assert [crops_of(detail, "x") for detail in (None, "auto", "high", "low")] == [None, None, None, 1]
    with pytest.raises(Refusal, match="'low', 'high' or 'auto'"):
        crops_of("original", "x")
