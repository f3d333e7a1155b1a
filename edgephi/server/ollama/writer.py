"""How answers are written for Ollama's clients."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from edgephi.server.engine.messages import CallPart, End, Piece, Score
from edgephi.server.ollama.response import (
    GenerateResponse,
    LikelyToken,
    OllamaAnswer,
    OllamaChatResponse,
    OllamaError,
    ScoredToken,
    UsedFunction,
    UsedTool,
    answer_numbers,
)
from edgephi.server.openai.numbers import finish_reason
from edgephi.server.refusal import Refusal
from edgephi.server.writer import Said

_encode = msgspec.json.Encoder().encode
Line = OllamaChatResponse | GenerateResponse


class JsonLines:
    """A line of JSON for each chunk."""

    content_type = "application/x-ndjson"
    end = b""

    def framed(self, chunk: msgspec.Struct) -> bytes:
        """See StreamForm."""
        return _encode(chunk) + b"\n"

    def progress(self, done: int, total: int) -> bytes:  # noqa: ARG002 - lines have no comments
        """See StreamForm."""
        return b""


class OllamaWriter:
    """The answer to a chat or, `chat` False, to a prompt. Calls of functions are told when they are whole."""

    form = JsonLines()

    def __init__(self, *, model: str, chat: bool, scored: bool) -> None:
        self._model = model
        self._chat = chat
        self._scored = scored
        self._calls: list[CallPart] = []

    def whole(self, said: Sequence[Said], end: End) -> msgspec.Struct:
        """See Writer."""
        pieces = [each for each in said if isinstance(each, Piece)]
        self._calls = [call for piece in pieces for call in piece.calls]
        text = "".join(piece.text for piece in pieces)
        scores = [score for piece in pieces for score in piece.scores]
        return self._done(text, end, scores, self._used(end.tool_calls))

    def opening(self) -> list[msgspec.Struct]:
        """See Writer."""
        return []

    def chunks(self, said: Said) -> list[msgspec.Struct]:
        """See Writer."""
        if not isinstance(said, Piece):
            return []
        self._calls += said.calls
        return [self._line(said.text, said.scores)] if said.text or said.scores else []

    def closing(self, end: End) -> list[msgspec.Struct]:
        """See Writer."""
        calls = self._used(end.tool_calls)
        lines: list[msgspec.Struct] = [self._line("", (), calls)] if calls else []
        return [*lines, self._done("", end, (), ())]

    def broken(self, refusal: Refusal) -> msgspec.Struct:
        """See Writer."""
        return OllamaError(refusal.error.error.message)

    def loaded(self) -> msgspec.Struct:
        """What is answered when nothing is asked: the model is there."""
        return msgspec.structs.replace(self._line("", ()), done=True, done_reason="load", logprobs=UNSET)

    def _done(self, text: str, end: End, scores: Sequence[Score], calls: Sequence[UsedTool]) -> Line:
        """The last line, or the only one."""
        reason = "length" if finish_reason(end) == "length" else "stop"
        numbers = msgspec.structs.asdict(answer_numbers(end))
        line = self._line(text, scores, calls)
        if not scores:
            line = msgspec.structs.replace(line, logprobs=UNSET)
        return msgspec.structs.replace(line, done=True, done_reason=reason, **numbers)

    def _line(self, text: str, scores: Sequence[Score], calls: Sequence[UsedTool] = ()) -> Line:
        common: dict[str, Any] = {
            "model": self._model,
            "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "done": False,
            "logprobs": self._logprobs(scores),
        }
        if not self._chat:
            return GenerateResponse(response=text, **common)
        message = OllamaAnswer(text, tool_calls=tuple(calls) or UNSET)
        return OllamaChatResponse(message=message, **common)

    def _logprobs(self, scores: Sequence[Score]) -> tuple[ScoredToken, ...] | UnsetType:
        if not self._scored:
            return UNSET
        return tuple(
            ScoredToken(
                score.text,
                score.logprob,
                score.bytes,
                tuple(LikelyToken(each.text, each.logprob, each.bytes) for each in score.alternatives),
            )
            for score in scores
        )

    def _used(self, count: int) -> tuple[UsedTool, ...]:
        """The first `count` calls, which are whole: their arguments are JSON."""
        calls = []
        for place in range(count):
            parts = [part for part in self._calls if part.place == place]
            # As they were written: JSON may have numbers and depths that no reader of it takes.
            arguments = msgspec.Raw("".join(part.arguments for part in parts).encode() or b"{}")
            calls.append(UsedTool(parts[0].id, UsedFunction(place, parts[0].name, arguments)))
        return tuple(calls)
