"""An engine that answers from a list, for tests of what stands above engines."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgephi.bundle.manifest import Limits, Requires
from edgephi.runtime import session as session_module
from edgephi.runtime.engines.sequence_cache import SequenceCache
from edgephi.runtime.session import Session
from tests.bundle.tiny import tiny_manifest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgephi.runtime.adapter import TileEncoder
    from edgephi.runtime.images.rows import ImageRows

END = 32007
TOKEN_BYTES = 1000


class ListedCache(SequenceCache):
    """After a prompt of any kind come the tokens of `answer`."""

    def __init__(self, engine: ListedEngine, capacity: int, adapter: str = "") -> None:
        super().__init__(capacity, piece_tokens=4, long_above=None)
        self.engine = engine
        self.adapter = adapter
        self.is_open = True

    def _compute(self, tokens: list[int], past: int) -> None:  # noqa: ARG002 - the base's name
        self.engine.computed.append(list(tokens))
        if self.engine.on_compute is not None:
            self.engine.on_compute()

    def _keep(self, count: int) -> int:
        return count

    def _last_logits(self) -> NDArray[np.float32]:
        import numpy as np

        logits = np.zeros(END + 1, np.float32)
        logits[self.engine.answer[len(self.tokens) - self.engine.prompt_tokens]] = 50
        return logits

    def _copy(self) -> ListedCache | None:
        if not self.engine.copies_caches:
            return None
        return self.engine.open_cache(self.capacity, adapter=self.adapter)

    def _free(self) -> None:
        self.is_open = False


class ListedEngine:
    """Answers with listed tokens; a token is the code point of its letter, and so is a prompt's.

    `computed` are the tokens of each call that computed some.
    """

    name = "listed"
    version = "1"
    provider = "cpu"
    told_factors = True
    image_rows: ImageRows | None = None
    tile_encoder: TileEncoder | None = None

    def __init__(
        self, answer: Sequence[int] = (), *, allocates_ahead: bool = True, copies_caches: bool = False
    ) -> None:
        self.answer = answer
        self.allocates_ahead = allocates_ahead
        self.copies_caches = copies_caches
        self.prompt_tokens = 0
        self.computed: list[list[int]] = []
        self.opened: list[ListedCache] = []
        self.on_compute: Callable[[], object] | None = None

    @property
    def computed_tokens(self) -> list[int]:
        """All tokens that were computed, one after the other."""
        return [*itertools.chain.from_iterable(self.computed)]

    def render_chat(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[Any] | None = None,  # noqa: ARG002 - of the protocol
    ) -> str:
        return "".join(f"<{message['role']}>{message['content']}" for message in messages)

    def encode(self, text: str) -> list[int]:
        self.prompt_tokens = len(text)
        return [ord(letter) for letter in text]

    def decode_stream(self, before: int) -> ListedEngine:  # noqa: ARG002 - the protocol's name
        return self

    def decode(self, token: int) -> str:
        assert token != END, "a stop token is not text"
        return chr(token) if token else ""

    def logits(
        self, token_ids: Sequence[int], *, step: int, adapter: str = ""
    ) -> Iterator[NDArray[np.float32]]:
        raise NotImplementedError

    def open_cache(self, capacity: int, *, adapter: str = "") -> ListedCache:
        self.opened.append(ListedCache(self, capacity, adapter))
        return self.opened[-1]


def open_session(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    answer: Sequence[int],
    *,
    context: int = 2048,
    cache_bytes: int | None = None,
) -> tuple[Session, ListedEngine]:
    """A session with a listed engine, on a bundle in `folder` that has nothing but a tokenizer's file."""
    engine = ListedEngine(answer)
    monkeypatch.setattr(session_module, "open_engine", lambda *_, **__: engine)
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model/tokenizer.json").write_text('{"added_tokens": [], "model": {"vocab": {}}}')
    manifest = tiny_manifest(
        limits=Limits(context),
        requires=Requires(10_000_000, 4_000_000, {}, memory_per_token_bytes=TOKEN_BYTES),
    )
    return Session(folder, manifest, cache_bytes=cache_bytes), engine
