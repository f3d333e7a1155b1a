"""How the continuation of a text is written."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from edgephi.server.engine.messages import End, Piece, Score
from edgephi.server.openai.completions.response import TextChoice, TextCompletion, TextLogprobs
from edgephi.server.openai.numbers import Usage, finish_reason, numbers, usage


class TextWriter:
    """The continuation of a text."""

    def __init__(self, *, model: str, context: int, scored: bool, include_usage: bool) -> None:
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._context = context
        self._scored = scored
        self._include_usage = include_usage
        self._written = 0  # characters, from the start of the answer

    def whole(self, pieces: Sequence[Piece], end: End) -> TextCompletion:
        """See Writer."""
        scores = [score for piece in pieces for score in piece.scores]
        text = "".join(piece.text for piece in pieces)
        choice = TextChoice(text, self._logprobs(scores), finish_reason(end))
        return self._completion((choice,), usage(end), end)

    def opening(self) -> list[msgspec.Struct]:
        """See Writer."""
        return []

    def chunk(self, piece: Piece) -> TextCompletion:
        """See Writer."""
        return self._completion((TextChoice(piece.text, self._logprobs(piece.scores)),))

    def closing(self, end: End) -> list[msgspec.Struct]:
        """See Writer."""
        chunks = [self._completion((TextChoice("", finish_reason=finish_reason(end)),), end=end)]
        if self._include_usage:
            chunks.append(self._completion((), usage(end)))
        return [*chunks]

    def _completion(
        self, choices: tuple[TextChoice, ...], numbers_: Usage | None = None, end: End | None = None
    ) -> TextCompletion:
        return TextCompletion(
            self._id,
            self._created,
            self._model,
            choices,
            "text_completion",
            usage=numbers_ if numbers_ is not None or self._include_usage else UNSET,
            edgephi=None if end is None else numbers(end, self._context),
        )

    def _logprobs(self, scores: Sequence[Score]) -> TextLogprobs | None:
        if not self._scored:
            return None
        offsets = []
        for score in scores:
            offsets.append(self._written)
            self._written += len(score.text)
        return TextLogprobs(
            tuple(score.text for score in scores),
            tuple(score.logprob for score in scores),
            tuple({each.text: each.logprob for each in score.alternatives} for score in scores),
            tuple(offsets),
        )
