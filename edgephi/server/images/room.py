"""How many bytes of images all requests together may hold, from their arrival until they are answered.

A request with texts is small, and many may wait. Images are a thousand times as large, so what waits is
counted in bytes too: a body counts from when it is larger than one of texts may be, as it comes.
"""

from __future__ import annotations

from typing import Self

from edgephi.server.refusal import Refusal

_RETRY_SECONDS = 2.0


class ImageRoom:
    """Room for the images of all requests: `most` bytes, of which one request may take `most_each`.

    Nothing fits into a room of 0 bytes: that of a model that reads text only.
    """

    def __init__(self, most: int, most_each: int) -> None:
        self.most = most
        self.most_each = most_each
        self.held = 0

    def place(self) -> Place:
        """A place for the images of a request, in which nothing is yet."""
        return Place(self)


class Place:
    """What one request holds of the room, until it is left.

    As a context it is left at the end, unless somebody has said `stay`, who then leaves it.
    """

    def __init__(self, room: ImageRoom) -> None:
        self._room = room
        self._bytes = 0
        self._stays = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._stays:
            self.leave()

    def stay(self) -> None:
        """Hold what is held beyond the end of the context."""
        self._stays = True

    @property
    def most(self) -> int:
        """The most bytes that it may hold."""
        return self._room.most_each

    @property
    def left(self) -> int:
        """Bytes that it may still take."""
        return self._room.most_each - self._bytes

    def take(self, size: int) -> None:
        """Hold so many bytes more. Raises Refusal: 429 where others hold too many, 413 where it does."""
        if self._bytes + size > self._room.most:
            raise Refusal(
                413,
                f"expected images of at most {self._room.most} bytes in a conversation, found more",
                code="body_too_large",
            )
        if self._room.held + size > self._room.most:
            raise Refusal(
                429,
                "the images of requests that wait already take all the room that there is for them",
                code="images_full",
                retry_after=_RETRY_SECONDS,
            )
        self._room.held += size
        self._bytes += size

    def leave(self) -> None:
        """Hold nothing any more; more than once is fine."""
        self._room.held -= self._bytes
        self._bytes = 0
