"""Stands in for Session's new methods until they are there; goes away then."""
# mypy: ignore-errors
# ruff: noqa

from dataclasses import dataclass, replace

import edgephi.runtime
from edgephi.runtime import session as sessions


@dataclass(frozen=True)
class Options(sessions.Options):
    stop: tuple = ()
    logprobs: int | None = None
    json_schema: str | None = None


@dataclass
class Piece:
    text: str
    scores: tuple = ()


class Answer:
    def __init__(self, inner, on_prefill):
        self._inner = inner
        self._on_prefill = on_prefill

    def __iter__(self):
        return iter(self._inner)

    def pieces(self):
        if self._on_prefill:
            self._on_prefill(1, 1)
        for text in self._inner:
            yield Piece(text)

    def close(self):
        pass

    @property
    def generation(self):
        numbers = self._inner.generation
        object.__setattr__(numbers, "reused_tokens", 0)
        return numbers


def patch():
    if hasattr(sessions.Session, "answer"):
        return
    sessions.Options = Options
    load = edgephi.runtime.load
    edgephi.runtime.load = lambda *a, cache_bytes=None, **k: load(*a, **k)

    def answer(self, messages, options, *, on_prefill=None):
        last = messages[-1]["content"]
        system = messages[0]["content"] if messages[0]["role"] == "system" else None
        return Answer(self.stream(last, replace(options, system=system)), on_prefill)

    sessions.Session.answer = answer
    sessions.Session.complete = lambda self, text, options, *, on_prefill=None: Answer(
        self.stream(text, options), on_prefill
    )
    sessions.Session.keep_ready = lambda self, system: None


patch()
