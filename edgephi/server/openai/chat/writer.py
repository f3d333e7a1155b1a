"""How the answer of a chat is written."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from edgephi.server.engine.messages import CallPart, End, Piece, Score
from edgephi.server.openai.chat.response import (
    AnswerMessage,
    Call,
    CallDelta,
    CalledFunction,
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
from edgephi.server.writer import Said, WritesEvents


class ChatWriter(WritesEvents):
    """The answer of a chat. `in_old_words`: a call is written as the API did at first, as `function_call`."""

    def __init__(
        self, *, model: str, context: int, scored: bool, include_usage: bool, in_old_words: bool = False
    ) -> None:
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._context = context
        self._scored = scored
        self._include_usage = include_usage
        self._in_old_words = in_old_words

    def whole(self, said: Sequence[Said], end: End) -> ChatCompletion:
        """See Writer."""
        pieces = [each for each in said if isinstance(each, Piece)]
        scores = [score for piece in pieces for score in piece.scores]
        message = self._message(pieces, end.tool_calls)
        return ChatCompletion(
            self._id,
            self._created,
            self._model,
            (ChatChoice(message, self._logprobs(scores), self._finish_reason(end)),),
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
        return [self._chunk(DeltaChoice(self._delta(said), self._logprobs(said.scores)))]

    def closing(self, end: End) -> list[msgspec.Struct]:
        """See Writer."""
        last = self._chunk(DeltaChoice(Delta(), finish_reason=self._finish_reason(end)))
        chunks = [msgspec.structs.replace(last, edgephi=numbers(end, self._context))]
        if self._include_usage:
            chunks.append(msgspec.structs.replace(last, choices=(), usage=usage(end)))
        return [*chunks]

    def _message(self, pieces: Sequence[Piece], count: int) -> AnswerMessage:
        """The text of all pieces, and the first `count` of their calls, which are whole."""
        text = "".join(piece.text for piece in pieces)
        parts = [call for piece in pieces for call in piece.calls]
        calls = tuple(_call([part for part in parts if part.place == place]) for place in range(count))
        if not calls:
            return AnswerMessage(text)
        content = text if text.strip() else None
        if self._in_old_words:
            return AnswerMessage(content, function_call=calls[0].function)
        return AnswerMessage(content, tool_calls=calls)

    def _delta(self, piece: Piece) -> Delta:
        """What a piece adds: text or calls."""
        if not piece.calls:
            return Delta(content=piece.text)
        if self._in_old_words:
            arguments = "".join(call.arguments for call in piece.calls)
            function = CalledFunction(arguments, piece.calls[0].name or None)
            return Delta(content=piece.text or None, function_call=function)
        calls = tuple(
            CallDelta(
                CalledFunction(call.arguments, call.name or None),
                call.place,
                call.id or None,
                "function" if call.id else None,
            )
            for call in piece.calls
        )
        return Delta(content=piece.text or None, tool_calls=calls)

    def _finish_reason(self, end: End) -> str:
        reason = finish_reason(end)
        return "function_call" if reason == "tool_calls" and self._in_old_words else reason

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


def _call(parts: Sequence[CallPart]) -> Call:
    """A call out of its pieces, the first of which has its name."""
    arguments = "".join(part.arguments for part in parts)
    return Call(parts[0].id, CalledFunction(arguments, parts[0].name))
