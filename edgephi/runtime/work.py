"""What an answer is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgephi.chat.tools.call_reader import CallReader
from edgephi.runtime.adapter import Engine
from edgephi.runtime.generation import Generation
from edgephi.runtime.images.session_images import PromptImages
from edgephi.runtime.options import DEFAULT_MAX_TOKENS, Options
from edgephi.runtime.prefix_cache import PrefixCache
from edgephi.runtime.text.scores import Scorer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgephi.runtime.text.constraint import Constraint

OnPrefill = Callable[[int, int], None]
"""Is told how many of the prompt's tokens are in the cache, and how many there are."""

OnImage = Callable[[int, int], None]
"""Is told how many tiles of the prompt's images are computed, and how many are to be."""

OnEnd = Callable[[Generation, list[int] | None], None]
"""Is told the answer, and its tokens where they are its text."""


@dataclass(frozen=True)
class Work:
    """All that an answer is made from. `start` is when its prompt came, of `time.perf_counter`.

    `comes_back`: whether a later prompt may go on where this answer ends. `adapter`: the name of the one that
    it is computed with, or "". `calls` reads the calls of functions out of the answer, in which `spelled` are
    special tokens whose texts are read too. `images` of the prompt are computed before it. `on_end` is told
    the answer and its tokens when it has ended, other than by an error; the tokens are None where they say
    more than the text. `known` are the logits after the prompt [vocabulary] where somebody has computed them.
    """

    engine: Engine
    caches: PrefixCache
    stop_token_ids: frozenset[int]
    context: int
    prompt: list[int]
    options: Options
    start: float
    comes_back: bool
    adapter: str = ""
    constraint: Constraint | None = None
    scorer: Scorer | None = None
    calls: CallReader | None = None
    spelled: Mapping[int, str] = field(default_factory=dict)
    images: PromptImages | None = None
    on_prefill: OnPrefill | None = None
    on_image: OnImage | None = None
    on_end: OnEnd | None = None
    known: NDArray[np.float32] | None = None

    @property
    def most_new_tokens(self) -> int:
        """The most tokens of the answer, as far as the context does not matter."""
        return self.options.max_tokens or DEFAULT_MAX_TOKENS

    @property
    def length(self) -> int:
        """The most tokens of prompt and answer together."""
        return min(self.context, len(self.prompt) + self.most_new_tokens)
