"""How an answer is written, whole or in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from edgephi.server.engine.messages import End, Piece


class Writer(Protocol):
    """One answer's form."""

    def whole(self, pieces: Sequence[Piece], end: End) -> msgspec.Struct:
        """The response that is not streamed."""

    def opening(self) -> list[msgspec.Struct]:
        """The first chunks of a stream."""

    def chunk(self, piece: Piece) -> msgspec.Struct:
        """The chunk of one piece."""

    def closing(self, end: End) -> list[msgspec.Struct]:
        """The last chunks of a stream."""
