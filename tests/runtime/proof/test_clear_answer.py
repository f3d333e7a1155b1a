"""What a bundle must answer on any device: as much of the greedy answer as was a clear choice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from edgephi.runtime.proof.clear_answer import ClearAnswer, clear_answer
from edgephi.runtime.text.chat_prompt import ChatPrompts
from tests.runtime.engines.listed_engine import END, ListedCache, ListedEngine

PROMPT_TOKENS = len("<user>hi")


class DoubtfulCache(ListedCache):
    """Where the answer has a token in `doubts`, another one is only so many nats less likely."""

    def _last_logits(self) -> NDArray[np.float32]:
        logits = super()._last_logits()
        assert isinstance(self.engine, DoubtfulEngine)
        margin = self.engine.doubts.get(int(logits.argmax()), 50)
        logits[1] = 50 - margin
        return logits


class DoubtfulEngine(ListedEngine):
    def __init__(self, answer: Sequence[int], doubts: dict[str, float]) -> None:
        super().__init__(answer)
        self.doubts = {ord(letter): margin for letter, margin in doubts.items()}

    def open_cache(self, capacity: int, *, adapter: str = "") -> DoubtfulCache:  # noqa: ARG002 - it has none
        cache = DoubtfulCache(self, capacity)
        self.opened.append(cache)
        return cache


def asked(
    text: str,
    doubts: dict[str, float] | None = None,
    *,
    max_tokens: int = 8,
    context: int = 100,
    system: str = "",
) -> tuple[ClearAnswer | None, ListedEngine]:
    engine = DoubtfulEngine([*map(ord, text), END, END], doubts or {})
    answer = clear_answer(
        engine,
        ChatPrompts(engine, {}),
        "hi",
        system=system,
        max_tokens=max_tokens,
        context=context,
        stop_token_ids=(END,),
    )
    assert not any(cache.is_open for cache in engine.opened)
    return answer, engine


def clear(answer: ClearAnswer | None) -> tuple[str, int]:
    """What a manifest gets of an answer."""
    assert answer is not None
    return answer.text, answer.max_tokens


@pytest.mark.parametrize("doubts", [{}, {"b": 0.4}], ids=["sure", "in doubt"])
def test_the_whole_answer_goes_on_where_what_is_clear_ends(doubts: dict[str, float]) -> None:
    answer, _ = asked("abcd", doubts)
    assert answer is not None
    assert (answer.whole, answer.token_ids) == ("abcd", tuple(map(ord, "abcd")))


def test_the_question_stands_behind_the_system_message() -> None:
    _, engine = asked("yes", system="short")
    assert engine.computed_tokens[: len("<system>short<user>hi")] == [*map(ord, "<system>short<user>hi")]


def test_an_answer_without_doubt_is_there_to_its_stop_token() -> None:
    answer, engine = asked("yes")
    assert clear(answer) == ("yes", 8)
    assert engine.computed_tokens == [*map(ord, "<user>hi"), *map(ord, "yes")]


@pytest.mark.parametrize(
    ("margin", "text"), [(0.6, "abc"), (0.5, "abc"), (0.4, "a"), (0.0, "a"), (math.nan, "a")]
)
def test_it_ends_before_the_first_token_that_another_processor_might_choose_otherwise(
    margin: float, text: str
) -> None:
    answer, _ = asked("abc", {"b": margin})
    assert clear(answer) == (text, 8)


def test_a_stop_token_in_doubt_ends_it_too() -> None:
    answer, _ = asked("ab", {chr(END): 0.1})
    assert clear(answer) == ("ab", 8)


def test_no_more_tokens_than_were_asked_for() -> None:
    answer, engine = asked("abcdef", max_tokens=3)
    assert clear(answer) == ("abc", 3)
    assert [cache.capacity for cache in engine.opened] == [PROMPT_TOKENS + 3]


def test_no_more_tokens_than_the_context_has_room_for() -> None:
    assert clear(asked("abcdef", context=PROMPT_TOKENS + 2)[0]) == ("ab", 2)
    answer, engine = asked("abcdef", context=PROMPT_TOKENS)
    assert answer is None
    assert engine.opened == []


def test_an_answer_ends_before_what_no_manifest_may_say() -> None:
    assert clear(asked("a\tb\nc\x1b[2J")[0]) == ("a\tb\nc", 8)


def test_letters_that_are_not_complete_are_left_out() -> None:
    answer, _ = asked("a\0b", {"b": 0.1})  # the listed engine's token 0 ends inside a letter
    assert clear(answer) == ("a", 8)
