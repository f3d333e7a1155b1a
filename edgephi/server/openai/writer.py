"""How an answer is written, whole or in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from edgephi.server.engine.messages import Echo, End, Finished, Piece

Said = Echo | Piece | Finished


class Writer(Protocol):
    """One answer's form."""

    def whole(self, said: Sequence[Said], end: End) -> msgspec.Struct:
        """The response that is not streamed."""

    def opening(self) -> list[msgspec.Struct]:
        """The first chunks of a stream."""

    def chunks(self, said: Said) -> list[msgspec.Struct]:
        """The chunks of what the engine has said."""

    def closing(self, end: End) -> list[msgspec.Struct]:
        """The last chunks of a stream."""
