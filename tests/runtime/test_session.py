"""A session's own work, with an engine that answers from a list."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Protocol

import pytest

from edgephi.errors import BadInputError, DoesNotFitError, EdgephiError, UsageError
from edgephi.runtime.session import Options, Session
from tests.runtime.engines.listed_engine import END, ListedEngine, open_session

HI = "<user>hi"


class Opens(Protocol):
    def __call__(
        self, answer: str, end: int | None = END, **options: Any
    ) -> tuple[Session, ListedEngine]: ...


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Opens:
    """Opens a session whose engine answers with the letters of a text and then, perhaps, a stop token."""

    def open_with(answer: str, end: int | None = END, **options: Any) -> tuple[Session, ListedEngine]:
        tokens = [*map(ord, answer), *([] if end is None else [end])]
        return open_session(monkeypatch, tmp_path, tokens, **options)

    return open_with


class TestWhereItEnds:
    def test_at_a_stop_token_which_is_never_shown(self, opened: Opens) -> None:
        session, _ = opened("yes" + chr(END) + "more")
        generation = session.generate("hi")
        assert (generation.text, generation.stop_reason, generation.generated_tokens) == ("yes", "stop", 3)
        assert generation.prompt_tokens == len(HI)

    def test_after_max_tokens(self, opened: Opens) -> None:
        generation = opened("abcdef")[0].generate("hi", Options(max_tokens=4))
        assert (generation.text, generation.stop_reason, generation.generated_tokens) == ("abcd", "length", 4)

    def test_where_the_context_does(self, opened: Opens) -> None:
        session, _ = opened("abcdef", context=len(HI) + 2)
        generation = session.generate("hi", Options(max_tokens=4))
        assert (generation.text, generation.stop_reason) == ("ab", "context")

    def test_a_stop_token_at_the_limit_is_a_stop(self, opened: Opens) -> None:
        assert opened("a")[0].generate("hi", Options(max_tokens=2)).stop_reason == "stop"

    def test_an_answer_of_nothing(self, opened: Opens) -> None:
        generation = opened("")[0].generate("hi")
        assert (generation.text, generation.stop_reason, generation.generated_tokens) == ("", "stop", 0)
        assert generation.decode_tokens_per_second == 0

    def test_what_comes_after_the_last_token_is_not_computed(self, opened: Opens) -> None:
        session, engine = opened("abcdef")
        session.generate("hi", Options(max_tokens=3))
        assert engine.computed_tokens == [*map(ord, HI + "ab")]


class TestStopTexts:
    @pytest.mark.parametrize(
        ("answer", "stops", "text"),
        [
            ("one. two", (". ",), "one"),  # over two tokens
            ("aaab", ("aab",), "a"),  # begins inside what had looked like the beginning
            ("xyz", ("yz", "y"), "x"),
            ("xyz", ("z", "yz"), "x"),  # the first in the text counts, not in the list
            ("ab", ("abc",), "ab"),  # the beginning of one is text after all
            ("stop", ("stop",), ""),
        ],
    )
    def test_the_answer_ends_before_the_first(
        self, opened: Opens, answer: str, stops: tuple[str, ...], text: str
    ) -> None:
        stream = opened(answer)[0].stream("hi", Options(stop=stops))
        assert "".join(stream) == stream.generation.text == text
        assert stream.generation.stop_reason == "stop"

    def test_no_piece_is_ever_taken_back(self, opened: Opens) -> None:
        pieces = list(opened("ab<ab>ab")[0].stream("hi", Options(stop=("b>",))))
        assert pieces == ["a", "b<", "a"]

    def test_the_tokens_after_it_are_not_computed(self, opened: Opens) -> None:
        session, engine = opened("ab.cd")
        session.generate("hi", Options(stop=(".",)))
        assert engine.computed_tokens == [*map(ord, HI + "ab")]

    def test_with_a_limit_what_is_held_back_is_shown(self, opened: Opens) -> None:
        generation = opened("abcd")[0].generate("hi", Options(stop=("cd",), max_tokens=3))
        assert (generation.text, generation.stop_reason) == ("abc", "length")


class TestClosing:
    def test_between_two_tokens(self, opened: Opens) -> None:
        session, engine = opened("abcdef")
        answer = session.stream("hi")
        assert [next(answer), next(answer)] == ["a", "b"]
        answer.close()
        assert list(answer) == []
        assert (answer.generation.text, answer.generation.stop_reason) == ("ab", "closed")
        assert engine.computed_tokens == [*map(ord, HI + "a")]
        assert session.generate("hi").text == "abcdef"

    def test_before_the_first_one(self, opened: Opens) -> None:
        session, engine = opened("abc")
        answer = session.stream("hi")
        answer.close()
        answer.close()
        assert (list(answer), engine.computed, answer.generation.stop_reason) == ([], [], "closed")

    def test_after_the_last_one(self, opened: Opens) -> None:
        answer = opened("abc")[0].stream("hi")
        assert list(answer) == ["a", "b", "c"]
        answer.close()
        assert answer.generation.stop_reason == "stop"

    def test_a_with_block_closes(self, opened: Opens) -> None:
        with opened("abc")[0].stream("hi") as answer:
            next(answer)
        assert answer.generation.stop_reason == "closed"

    @pytest.mark.parametrize("after", [1, 4], ids=["while the prompt is read", "while it answers"])
    def test_by_another_thread_while_a_token_is_computed(self, opened: Opens, after: int) -> None:
        session, engine = opened("abcdef")
        answer = session.stream("hi")

        def close_it() -> None:
            if len(engine.computed) == after:
                thread = threading.Thread(target=answer.close)
                thread.start()
                thread.join()

        engine.on_compute = close_it
        pieces = list(answer)
        assert len(engine.computed) == after
        assert "".join(pieces) == answer.generation.text
        assert answer.generation.stop_reason == "closed"
        engine.on_compute = None
        assert session.generate("hi").text == "abcdef"

    def test_an_answer_that_nobody_wants_is_no_hindrance(self, opened: Opens) -> None:
        session, engine = opened("abc", cache_bytes=2048 * 1000)
        next(session.answer([{"role": "user", "content": "hi"}]))
        assert session.generate("hi").text == "abc"
        assert len(engine.opened) == 1


class TestWhatItIsTold:
    def test_how_much_of_the_prompt_is_computed(self, opened: Opens) -> None:
        session, _ = opened("a")
        told: list[tuple[int, int]] = []
        list(session.complete("0123456789", on_prefill=lambda *numbers: told.append(numbers)))
        assert told == [(4, 10), (8, 10), (10, 10)]
        told.clear()
        list(session.complete("01234567xyz", on_prefill=lambda *numbers: told.append(numbers)))
        assert told == [(11, 11)]

    def test_what_was_reused(self, opened: Opens) -> None:
        session, engine = opened("a")
        assert session.generate("hi").reused_tokens == 0
        assert session.generate("hello").reused_tokens == len("<user>h")
        assert engine.computed_tokens == [*map(ord, HI + "a" + "ello" + "a")]

    def test_an_exception_of_its_own_ends_it_and_does_no_harm(self, opened: Opens) -> None:
        session, engine = opened("abc")

        def interrupt(_done: int, _total: int) -> None:
            raise KeyboardInterrupt

        answer = session.complete("0123456789", on_prefill=interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(answer)
        assert answer.generation.stop_reason == "closed"
        assert "".join(session.complete("0123456789")) == "abc"
        assert len(engine.opened) == 1  # what had been read was kept


class TestMemory:
    def test_a_single_prompt_opens_little_more_than_it_needs(self, opened: Opens) -> None:
        session, engine = opened("a")
        session.generate("hi", Options(max_tokens=5))
        assert len(HI) + 5 <= engine.opened[0].capacity <= len(HI) + 5 + 128

    def test_a_conversation_opens_the_whole_context(self, opened: Opens) -> None:
        session, engine = opened("a")
        list(session.answer([{"role": "user", "content": "hi"}], Options(max_tokens=5)))
        assert engine.opened[0].capacity == session.context

    def test_an_engine_that_fails_loses_its_cache(self, opened: Opens) -> None:
        session, engine = opened("abc")
        session.generate("hi")

        def fail() -> None:
            raise EdgephiError("the engine failed", hint="")

        engine.on_compute = fail
        answer = session.stream("hi")
        with pytest.raises(EdgephiError, match="the engine failed"):
            list(answer)
        with pytest.raises(EdgephiError, match="not finished"):
            _ = answer.generation
        engine.on_compute = None
        assert [cache.is_open for cache in engine.opened] == [False]
        assert session.generate("hi").reused_tokens == 0

    def test_cache_bytes_for_less_than_one_context(self, opened: Opens) -> None:
        with pytest.raises(DoesNotFitError, match="cache_bytes of at least 2048000 for a context of 2048"):
            opened("a", cache_bytes=2_047_999)


class TestPrompts:
    def test_one_past_the_context_is_refused(self, opened: Opens) -> None:
        session, _ = opened("", context=8)
        with pytest.raises(DoesNotFitError, match="the prompt has 8 tokens, the context is 8 tokens"):
            session.stream("hi")

    def test_the_system_message_comes_first(self, opened: Opens) -> None:
        session, _ = opened("")
        assert session.render("hi", "be kind") == "<system>be kind<user>hi"
        assert session.generate("hi", Options(system="be kind")).prompt_tokens == len(
            "<system>be kind<user>hi"
        )
        assert session.render("hi") == HI

    def test_the_system_message_is_one_of_the_messages(self, opened: Opens) -> None:
        session, _ = opened("")
        with pytest.raises(UsageError, match="without a system message"):
            session.answer([{"role": "user", "content": "hi"}], Options(system="be kind"))
        with pytest.raises(UsageError, match="without a system message"):
            session.chat().say("hi", Options(system="be kind"))

    @pytest.mark.parametrize(
        "message",
        [
            {"role": "tool", "content": None},
            {"role": "user>", "content": "hi"},
            {"content": "hi"},
            {"role": "user", "content": None},
            {"role": "user"},
        ],
        ids=str,
    )
    def test_messages_that_are_none(self, opened: Opens, message: dict[str, Any]) -> None:
        with pytest.raises(BadInputError, match=r"expected a message of|expected text as content"):
            opened("")[0].answer([message])

    def test_a_text_of_nothing_cannot_be_continued(self, opened: Opens) -> None:
        with pytest.raises(BadInputError, match="found an empty one"):
            opened("")[0].complete("")


def test_numbers_come_after_the_last_piece(opened: Opens) -> None:
    answer = opened("a\0b", None)[0].stream("hi", Options(max_tokens=3))
    assert next(answer) == "a"
    with pytest.raises(EdgephiError, match="not finished"):
        _ = answer.generation
    assert list(answer) == ["b"]  # a token without text of its own is no piece
    assert answer.generation.text == "ab"
    assert answer.generation.generated_tokens == 3


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
        {"stop": ("a", "")},
        {"logprobs": -1},
        {"logprobs": 21},
    ],
    ids=str,
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        Options(**options)
