"""Text of strangers is shown, and steers nothing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi.guards.visible import VisibleAnswer, visible, visible_json, visible_lines

HOSTILE = "a\x1b]0;title\x07b\x9b31m\r\x7f\u202ec\u2066d\u2028e"


def test_what_would_steer_a_terminal_is_shown_as_its_escape() -> None:
    assert visible(HOSTILE) == r"a\x1b]0;title\x07b\x9b31m\r\x7f\u202ec\u2066d\u2028e"
    assert visible("line\nline\t") == r"line\nline\t"
    assert visible_lines("line\nline\t\r\x1b[2J") == "line\nline\t\\r\\x1b[2J"
    assert visible("ä 漢 é 🙂") == "ä 漢 é 🙂"


@given(st.text())
def test_every_letter_of_any_text_shows(text: str) -> None:
    assert visible(text).isprintable()
    assert visible_lines(text).replace("\n", "").replace("\t", "").isprintable()


@given(
    st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_a_document_keeps_its_value(value: object) -> None:
    shown = visible_json(json.dumps(value, indent=1, ensure_ascii=False))
    assert json.loads(shown) == value
    assert shown.replace("\n", "").isprintable()


class TestAnAnswerOnATerminal:
    @pytest.mark.parametrize("cut", range(len(HOSTILE)))
    def test_shows_the_same_however_it_is_cut(self, cut: int) -> None:
        said = VisibleAnswer()
        shown = said.add(HOSTILE[:cut]) + said.add(HOSTILE[cut:]) + said.end()
        assert shown == r"a\x1b]0;title\x07b\x9b31m\r\x7f\u202ec\u2066d\u2028e"

    def test_a_line_may_end_as_on_windows(self) -> None:
        said = VisibleAnswer()
        assert [said.add("one\r"), said.add("\ntwo\r\n"), said.add("t\r"), said.end()] == [
            *("one", "\ntwo\n", "t", "\\r")
        ]

    def test_letters_of_several_parts_stay_whole(self) -> None:
        text = "👩\u200d💻 \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
        assert VisibleAnswer().add(text) == text

    @given(st.lists(st.text()))
    def test_nothing_steers_whatever_it_writes(self, pieces: list[str]) -> None:
        said = VisibleAnswer()
        shown = "".join(map(said.add, pieces)) + said.end()
        assert not set(shown) & {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))}
        assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
