"""The images of one request, in the order of its messages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgephi.bundle.image_tokens import ImageFacts, token_count
from edgephi.server.images.data_url import SCHEME, bytes_of_base64, bytes_of_data_url
from edgephi.server.images.fetch import SECONDS, Fetcher
from edgephi.server.images.room import Place
from edgephi.server.refusal import Refusal

_FETCHED = ("http://", "https://")
_SHOWN = 40


@dataclass(frozen=True)
class Sight:
    """How a model sees: `facts` of its images (None: not at all), tokens of its context.

    Without a `fetcher`, images come in the request itself and from nowhere else.
    """

    facts: ImageFacts | None
    context: int
    fetcher: Fetcher | None = None


@dataclass(frozen=True)
class _Elsewhere:
    """An image that is still to be fetched, for the member `param` of the request."""

    url: str
    param: str


class AskedImages:
    """Takes the images of a request one by one; what a message then holds says which one of them it is.

    Raises Refusal for images from `before` that find no place.
    """

    def __init__(self, sight: Sight, place: Place, before: Sequence[bytes] = ()) -> None:
        self._sight = sight
        self._place = place
        self._images: list[bytes | _Elsewhere] = list(before)
        place.take(sum(map(len, before)))

    def at_url(self, url: str, param: str, crops: int | None = None) -> dict[str, Any]:
        """The part of a message for an image that a URL has or names. Raises Refusal, which names `param`.

        `crops` is the most tiles that it becomes, None as many as the model has.
        """
        self._check_sees(param)
        if url[: len(SCHEME)].lower() == SCHEME:
            return self._part(bytes_of_data_url(url, param), param, crops)
        if not url.lower().startswith(_FETCHED):
            raise Refusal(
                400,
                f"expected an image as data:image/…;base64,…, found {url[:_SHOWN]!r}: no files are read",
                param=param,
            )
        if self._sight.fetcher is None:
            raise Refusal(
                400,
                "expected an image as data:image/…;base64,…, found an address: this server fetches none "
                "(--image-urls public)",
                param=param,
            )
        return self._part(_Elsewhere(url, param), param, crops)

    def in_base64(self, text: str, param: str) -> dict[str, Any]:
        """The part of a message for an image in base64. Raises Refusal, which names `param`."""
        self._check_sees(param)
        return self._part(bytes_of_base64(text, param), param)

    async def all_fetched(self) -> tuple[bytes, ...]:
        """The bytes of all images. Raises Refusal for one that cannot be had."""
        if any(isinstance(image, _Elsewhere) for image in self._images):
            try:
                async with asyncio.timeout(SECONDS):
                    return tuple([await self._bytes_of(image) for image in self._images])
            except TimeoutError:
                raise Refusal(
                    400,
                    f"cannot fetch the images: they were not there within {SECONDS:.0f} s",
                    code="image_not_fetched",
                ) from None
        return tuple([await self._bytes_of(image) for image in self._images])

    async def _bytes_of(self, image: bytes | _Elsewhere) -> bytes:
        if isinstance(image, bytes):
            return image
        assert self._sight.fetcher is not None  # noqa: S101 - for the type checker
        return await self._sight.fetcher.fetch(image.url, self._place, image.param)

    def _part(self, image: bytes | _Elsewhere, param: str, crops: int | None = None) -> dict[str, Any]:
        facts = self._sight.facts
        assert facts is not None  # noqa: S101 - for the type checker
        self._images.append(image)
        least = len(self._images) * token_count((1, 1), facts)
        if least >= self._sight.context:
            raise Refusal(
                400,
                f"{len(self._images)} images are {least} tokens at least, the context is "
                f"{self._sight.context} tokens, prompt and answer together",
                param=param,
                code="context_length_exceeded",
            )
        part: dict[str, Any] = {"type": "image", "image": len(self._images) - 1}
        return part if crops is None else part | {"crops": crops}

    def _check_sees(self, param: str) -> None:
        if self._sight.facts is None:
            raise Refusal(
                400,
                "expected text, found an image: this model reads text only; leave the image out, or serve a "
                "model that sees, such as phi-3.5-vision",
                param=param,
                code="unsupported_parameter",
            )
