"""How the continuations of texts are written."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from edgephi.server.engine.messages import End, Finished, PromptScore, Score
from edgephi.server.openai.completions.response import TextChoice, TextCompletion, TextLogprobs
from edgephi.server.openai.numbers import Usage, finish_reason, numbers, usage
from edgephi.server.writer import Said, WritesEvents


class TextWriter(WritesEvents):
    """The continuations of texts, a choice each."""

    def __init__(self, *, model: str, context: int, scored: bool, include_usage: bool) -> None:
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._context = context
        self._scored = scored
        self._include_usage = include_usage
        self._written: dict[int, int] = {}  # characters of each choice
        self._last: Finished | None = None  # waits for the end of all, to be told with its numbers

    def whole(self, said: Sequence[Said], end: End) -> TextCompletion:
        """See Writer."""
        by_choice: dict[int, list[Said]] = {}
        for each in said:
            by_choice.setdefault(each.choice, []).append(each)
        choices = tuple(self._choice(index, parts) for index, parts in sorted(by_choice.items()))
        return self._completion(choices, usage(end), end)

    def opening(self) -> list[msgspec.Struct]:
        """See Writer."""
        return []

    def chunks(self, said: Said) -> list[msgspec.Struct]:
        """See Writer."""
        if not isinstance(said, Finished):
            return [self._completion((self._choice(said.choice, [said]),))]
        before, self._last = self._last, said
        return [] if before is None else [self._completion((self._choice(before.choice, [before]),))]

    def closing(self, end: End) -> list[msgspec.Struct]:
        """See Writer."""
        last = () if self._last is None else (self._choice(self._last.choice, [self._last]),)
        chunks = [self._completion(last, end=end)]
        if self._include_usage:
            chunks.append(self._completion((), usage(end)))
        return [*chunks]

    def _choice(self, index: int, said: Sequence[Said]) -> TextChoice:
        """What was said of one choice. A stop token is no text, but has a score."""
        parts = [each for each in said if not isinstance(each, Finished)]
        ended = next((each for each in said if isinstance(each, Finished)), None)
        scores = [score for part in parts for score in part.scores]
        if ended is not None and ended.stop is not None:
            scores.append(ended.stop)
        return TextChoice(
            "".join(part.text for part in parts),
            self._logprobs(index, scores),
            None if ended is None else finish_reason(ended),
            index,
        )

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

    def _logprobs(self, index: int, scores: Sequence[Score | PromptScore]) -> TextLogprobs | None:
        if not self._scored:
            return None
        written = self._written.get(index, 0)
        offsets = []
        for score in scores:
            offsets.append(written)
            written += len(score.text)
        self._written[index] = written
        return TextLogprobs(
            tuple(score.text for score in scores),
            tuple(score.logprob for score in scores),
            tuple(map(_likely, scores)),
            tuple(offsets),
        )


def _likely(score: Score | PromptScore) -> dict[str, float] | None:
    """The most likely tokens, and the one that is there; of two that are written alike the likelier one."""
    if score.logprob is None:
        return None
    likely = {each.text: each.logprob for each in reversed(score.alternatives)}
    return {score.text: score.logprob} | likely
