"""A session's own work, with an engine that answers from a list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgephi.errors import DoesNotFitError, EdgephiError, UsageError
from edgephi.manifest import Limits
from edgephi.runtime import session as session_module
from edgephi.runtime.session import Options, Session
from tests.tiny_bundle import tiny_manifest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

END = 32007


class ListedEngine:
    """Answers with listed tokens; a token is the code point of its letter, and so is a prompt's."""

    name = "listed"
    version = "1"
    provider = "none"

    def __init__(self, answer: Sequence[int]) -> None:
        self.answer = answer
        self.asked: dict[str, Any] = {}

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        return "".join(f"<{message['role']}>{message['content']}" for message in messages)

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode_stream(self, before: int) -> ListedEngine:  # noqa: ARG002 - the protocol's name
        return self

    def decode(self, token: int) -> str:
        assert token != END, "a stop token is not text"
        return chr(token) if token else ""

    def generate(self, prompt: Sequence[int], *, length: int, **options: Any) -> Iterator[int]:
        self.asked = {"length": length, **options}
        yield from self.answer[: length - len(prompt)]

    def logits(self, token_ids: Sequence[int], *, step: int) -> Iterator[NDArray[np.float32]]:
        raise NotImplementedError


def open_session(monkeypatch: pytest.MonkeyPatch, answer: Sequence[int], context: int = 2048) -> Session:
    monkeypatch.setattr(session_module, "open_engine", lambda *_, **__: ListedEngine(answer))
    return Session(Path("bundle"), tiny_manifest(limits=Limits(context)))


def test_stops_at_a_stop_token_and_never_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(monkeypatch, [*map(ord, "yes"), END, *map(ord, "more")])
    generation = session.generate("hi")
    assert (generation.text, generation.stop_reason, generation.generated_tokens) == ("yes", "stop", 3)
    assert generation.prompt_tokens == len("<user>hi")


def test_max_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(monkeypatch, [*map(ord, "abcdef")])
    generation = session.generate("hi", Options(max_tokens=4))
    assert (generation.text, generation.stop_reason, generation.generated_tokens) == ("abcd", "length", 4)


def test_the_context_ends_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(monkeypatch, [*map(ord, "abcdef")], context=len("<user>hi") + 2)
    generation = session.generate("hi", Options(max_tokens=4))
    assert (generation.text, generation.stop_reason) == ("ab", "context")


def test_a_stop_token_at_the_limit_is_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(monkeypatch, [ord("a"), END])
    assert session.generate("hi", Options(max_tokens=2)).stop_reason == "stop"


def test_only_what_may_be_needed_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(monkeypatch, [END])
    session.generate("hi", Options(max_tokens=5, temperature=0.5, top_p=0.9, seed=7))
    engine = session.engine
    assert isinstance(engine, ListedEngine)
    assert engine.asked == {
        "length": len("<user>hi") + 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 50,
        "seed": 7,
    }


def test_a_prompt_past_the_context_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(monkeypatch, [END], context=8)
    with pytest.raises(DoesNotFitError, match="the prompt has 8 tokens, the context is 8 tokens"):
        session.stream("hi")


def test_the_system_message_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(monkeypatch, [END])
    assert session.render("hi", "be kind") == "<system>be kind<user>hi"
    assert session.render("hi") == "<user>hi"


def test_numbers_come_after_the_last_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = open_session(monkeypatch, [ord("a"), 0, ord("b")]).stream("hi", Options(max_tokens=3))
    assert next(answer) == "a"
    with pytest.raises(EdgephiError, match="not finished"):
        _ = answer.generation
    assert list(answer) == ["b"]  # a token without text of its own is no piece
    assert answer.generation.text == "ab"
    assert answer.generation.generated_tokens == 3


def test_an_answer_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generation = open_session(monkeypatch, [END]).generate("hi")
    assert (generation.text, generation.stop_reason, generation.generated_tokens) == ("", "stop", 0)
    assert generation.decode_tokens_per_second == 0


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"seed": -1},
        {"seed": 1 << 31},
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        Options(**options)
