"""How the answer of a chat is written."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from edgephi.server.engine.messages import End, Piece, Score
from edgephi.server.openai.chat.response import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    Delta,
    DeltaChoice,
    Likely,
    TokenLogprob,
)
from edgephi.server.openai.numbers import finish_reason, numbers, usage
from edgephi.server.openai.writer import Said


class ChatWriter:
    """The answer of a chat."""

    def __init__(self, *, model: str, context: int, scored: bool, include_usage: bool) -> None:
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._context = context
        self._scored = scored
        self._include_usage = include_usage

    def whole(self, said: Sequence[Said], end: End) -> ChatCompletion:
        """See Writer."""
        pieces = [each for each in said if isinstance(each, Piece)]
        scores = [score for piece in pieces for score in piece.scores]
        message = AnswerMessage("".join(piece.text for piece in pieces))
        return ChatCompletion(
            self._id,
            self._created,
            self._model,
            (ChatChoice(message, self._logprobs(scores), finish_reason(end)),),
            usage(end),
            numbers(end, self._context),
        )

    def opening(self) -> list[msgspec.Struct]:
        """See Writer."""
        return [self._chunk(DeltaChoice(Delta(role="assistant", content="")))]

    def chunks(self, said: Said) -> list[msgspec.Struct]:
        """See Writer."""
        if not isinstance(said, Piece):
            return []
        return [self._chunk(DeltaChoice(Delta(content=said.text), self._logprobs(said.scores)))]

    def closing(self, end: End) -> list[msgspec.Struct]:
        """See Writer."""
        last = self._chunk(DeltaChoice(Delta(), finish_reason=finish_reason(end)))
        chunks = [msgspec.structs.replace(last, edgephi=numbers(end, self._context))]
        if self._include_usage:
            chunks.append(msgspec.structs.replace(last, choices=(), usage=usage(end)))
        return [*chunks]

    def _chunk(self, choice: DeltaChoice) -> ChatChunk:
        # With usage asked for, every chunk has the member, and only the last one has numbers in it.
        nothing = None if self._include_usage else UNSET
        return ChatChunk(
            self._id, self._created, self._model, (choice,), "chat.completion.chunk", usage=nothing
        )

    def _logprobs(self, scores: Sequence[Score]) -> ChatLogprobs | None:
        if not self._scored:
            return None
        return ChatLogprobs(
            tuple(
                TokenLogprob(
                    score.text,
                    score.logprob,
                    score.bytes,
                    tuple(Likely(each.text, each.logprob, each.bytes) for each in score.alternatives),
                )
                for score in scores
            )
        )
