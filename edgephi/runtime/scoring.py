"""Scores a text that is given: how likely the model finds each of its tokens after those before it.

It takes the logits after every token, which an answer does not: they come in pieces that bound the memory,
and nothing of them is kept. A text is computed from its start each time, whatever the caches hold.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from edgephi.bundle.manifest import Manifest
from edgephi.errors import EdgephiError
from edgephi.runtime.adapter import Engine
from edgephi.runtime.text.scores import PromptScore, Scorer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOGIT_BYTES = 8
"""What one logit of a piece takes: float32, here and in the engine."""

_PIECE_BYTES = 16 << 20  # of a piece's logits in float32
_FEWEST, _MOST = 8, 256  # tokens of a piece

OnProgress = Callable[[int, int], None]
"""Is told how many of the text's tokens are computed, and how many there are."""


@dataclass(frozen=True)
class ScoringWork:
    """All that a text is scored with. `spelled` are the bytes of its tokens, which begin in an empty context.

    `step` tokens are computed at once. `adapter`: the name of the one that they are computed with, or "".
    """

    engine: Engine
    prompt: list[int]
    spelled: list[bytes]
    scorer: Scorer
    step: int
    adapter: str = ""
    on_progress: OnProgress | None = None


def piece_tokens(manifest: Manifest, engine: Engine, tokens: int, vocabulary: int) -> int:
    """How many of a text's tokens are computed at once: few, so that their logits stay small.

    But all of them where LongRoPE's long factors hold, and the engine has to see that at once.
    """
    limit = manifest.limits.whole_prefill_above
    if limit is not None and tokens > limit and not engine.told_factors:
        return tokens
    return min(tokens, max(_FEWEST, min(_MOST, _PIECE_BYTES // (4 * vocabulary))))


class Scoring(Iterator[PromptScore]):
    """Iterate to get the score of each token; the first one has no probability, since nothing is before it.

    Nothing is computed before the first one is asked for. After the end, `logits` are those after the last
    token [vocabulary]. Errors of memory and of the engine come out of the iteration.
    """

    def __init__(self, work: ScoringWork) -> None:
        # Not a method: its generator would hold this object, which could not end by itself then.
        self._state = _State()
        self._scores = _scores(work, self._state)

    def __next__(self) -> PromptScore:
        return next(self._scores)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop within one piece. Another thread may call it while a score is awaited."""
        self._state.closing.set()
        with contextlib.suppress(ValueError):  # it is computing right now, and sees the mark soon
            self._scores.close()

    @property
    def logits(self) -> NDArray[np.float32]:
        """Logits after the last token; only when all scores have been taken."""
        if self._state.logits is None:
            raise EdgephiError("the text is not scored yet", hint="take all of its scores first")
        return self._state.logits


class _State:
    """What a scoring and its generator share."""

    def __init__(self) -> None:
        self.closing = threading.Event()
        self.logits: NDArray[np.float32] | None = None


def _scores(work: ScoringWork, state: _State) -> Generator[PromptScore]:
    """The score of each token, as its piece is computed."""
    prompt, spelled, scorer = work.prompt, work.spelled, work.scorer
    before: NDArray[np.float32] | None = None  # the logits that the next token is scored by
    done = 0
    blocks = work.engine.logits(prompt, step=work.step, adapter=work.adapter)
    for block in blocks:
        for row, token in zip(block, prompt[done : done + len(block)], strict=True):
            if state.closing.is_set():
                return
            yield scorer.score_given(before, token, spelled[done])
            before = row
            done += 1
        before = block[-1].copy()  # the engine may use its memory again
        if work.on_progress is not None:
            work.on_progress(done, len(prompt))
    state.logits = before
