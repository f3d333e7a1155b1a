"""The images of one session: which the engine knows, and those of each prompt that it does not know yet."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from edgephi.bundle.image_tokens import ImageFacts
from edgephi.errors import NotSupportedError
from edgephi.runtime.adapter import Engine
from edgephi.runtime.images.encode import encode_image
from edgephi.runtime.images.in_messages import images_of, placed_messages, seen_messages, with_images
from edgephi.runtime.images.preparation import PreparedImage, prepared
from edgephi.runtime.images.rows import ImageRows
from edgephi.runtime.images.seen_image import ImageSource, SeenImage


class SessionImages:
    """Has the engine compute images, once each. `facts` are None for a model that reads text alone.

    `cached` gives the tokens of every KV cache: an image that is in one is not forgotten.
    """

    def __init__(
        self, engine: Engine, facts: ImageFacts | None, cached: Callable[[], Sequence[Sequence[int]]]
    ) -> None:
        self._engine = engine
        self._facts = facts
        self._cached = cached
        self._waiting: weakref.WeakSet[PromptImages] = weakref.WeakSet()

    def see(self, image: ImageSource, crops: int | None = None) -> SeenImage:
        """One image that was looked at, as `seen` does it."""
        (found,) = images_of(self.seen([{"role": "user", "content": with_images("", [image])}], crops))
        return found

    def seen(self, messages: Sequence[Mapping[str, Any]], crops: int | None) -> list[dict[str, Any]]:
        """Messages whose images were looked at: their tokens are known, and nothing is decoded.

        Raises as `see` does, and NotSupportedError where the model or the engine cannot see.
        """
        found = seen_messages(messages, self._facts, crops)
        if self._engine.image_rows is None and images_of(found):
            raise NotSupportedError(
                f"{self._engine.name} has no image encoder in this bundle",
                hint="build it again with this edgephi, or for another target",
            )
        return found

    def placed(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The same messages with the ids of their images in place of these."""
        if not images_of(messages):
            return [dict(message) for message in messages]
        return placed_messages(messages, lambda image: self._table.place(image.key, image.tokens))

    def of_prompt(self, images: Sequence[SeenImage]) -> PromptImages | None:
        """The images of a prompt, which have their places; decoded, where the engine does not know them.

        None where there are none. Raises BadInputError for files that are broken.
        """
        if not images or self._facts is None:
            return None
        missing = {image.key: image for image in images if not self._table.is_filled(image.key)}
        ready = [prepared(image, self._facts) for image in missing.values()]
        found = PromptImages(images, ready, self._encode)
        self._waiting.add(found)
        return found

    def _encode(self, image: PreparedImage) -> Iterator[int]:
        """Compute an image, after others that nobody needs have made room for it."""
        assert self._facts is not None  # noqa: S101 - else it could not be prepared
        self._table.forget(self._is_used)
        return encode_image(self._engine, image, self._facts)

    def _is_used(self, ids: range) -> bool:
        """Whether an image is part of a cache, or of a prompt that may be computed yet."""
        needed = {self._table.place(each.key, each.tokens) for own in self._waiting for each in own.images}
        return ids in needed or any(not set(ids).isdisjoint(tokens) for tokens in self._cached())

    @property
    def _table(self) -> ImageRows:
        table = self._engine.image_rows
        assert table is not None  # noqa: S101 - `seen` has looked
        return table


class PromptImages:
    """The images of one prompt. `tokens` are those of all of them together."""

    def __init__(
        self,
        images: Sequence[SeenImage],
        ready: list[PreparedImage],
        encode: Callable[[PreparedImage], Iterator[int]],
    ) -> None:
        self.images = tuple(images)
        self.tokens = sum(image.tokens for image in images)
        self._ready = ready
        self._encode = encode

    def encode(self) -> Iterator[tuple[int, int]]:
        """Compute those that the engine does not know, a tile at a time.

        After each it yields how many tiles are done, and how many there are. Closing it between two keeps
        the images that are whole.
        """
        total = sum(1 + image.grid[0] * image.grid[1] for image in self._ready)
        before = 0
        while self._ready:
            done = 0
            for done in self._encode(self._ready[0]):
                yield before + done, total
            before += done
            self._ready.pop(0)

    def encode_all(self) -> None:
        """Compute all of them."""
        for _ in self.encode():
            pass
