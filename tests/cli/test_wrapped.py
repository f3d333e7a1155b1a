"""Answers that are broken between words: what stands on which line, however the text comes in pieces."""

import itertools
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgephi.cli.show.lines.columns import columns_of
from edgephi.cli.show.lines.wrapped import WrappedText
from tests.property_profile import examples

WORDS = st.lists(st.text("abcdefgh,.!?()'", min_size=1, max_size=14), min_size=1)
EASTERN = "漢字かな、。「」한국어 ab👍"
WIDTHS = st.integers(30, 100)


def wrapped(text: str, width: int = 80, cuts: list[int] | None = None) -> str:
    """The text as it is shown, when it comes in pieces that end at `cuts`."""
    lines = WrappedText(lambda: width)
    places = [0, *sorted(set(cuts or range(len(text)))), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    return "".join(map(lines.add, pieces)) + lines.end()


@settings(max_examples=examples(200))
@given(words=WORDS, width=WIDTHS, data=st.data())
def test_a_paragraph_is_broken_as_textwrap_does_it(words: list[str], width: int, data: st.DataObject) -> None:
    text = "x" + " ".join(words)
    cuts = data.draw(st.lists(st.integers(0, len(text))))
    expected = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    assert wrapped(text, width, cuts) == "\n".join(expected)


@settings(max_examples=examples(200))
@given(text=st.text(), width=WIDTHS, data=st.data())
def test_nothing_but_space_at_a_break_is_changed(text: str, width: int, data: st.DataObject) -> None:
    shown = wrapped(text, width, data.draw(st.lists(st.integers(0, len(text)))))
    assert "".join(shown.split()) == "".join(text.split())


@settings(max_examples=examples(100))
@given(text=st.text(EASTERN, min_size=1), width=WIDTHS)
def test_wide_letters_fill_a_line_and_never_more(text: str, width: int) -> None:
    assert all(columns_of(line) <= width for line in wrapped(f"x{text}", width).split("\n")) or any(
        columns_of(word) > width for word in text.split()
    )


def test_chinese_is_broken_between_letters_and_not_before_a_full_stop() -> None:
    assert wrapped("字" * 39 + "好。" + "字" * 10) == "字" * 39 + "\n好。" + "字" * 10


def test_a_family_of_emojis_stays_together() -> None:
    family = "👩‍👩‍👧"
    assert family in wrapped("x" * 77 + " " + family * 2).replace("\n", " ")
    assert "👍🏽" in wrapped("x" * 79 + "👍🏽").replace("\n", " ")


@pytest.mark.parametrize(
    "text",
    [
        "```python\n" + "value = " + "word " * 40 + "\n```\n",
        "~~~\n" + "word " * 40 + "\n```\n" + "word " * 40 + "\n~~~\n",
        "    " + "word " * 40 + "\n",
        "\t" + "word " * 40 + "\n",
        "| " + "cell | " * 40 + "\n",
    ],
)
def test_code_and_tables_stay_as_they_are(text: str) -> None:
    assert wrapped(text) == text


def test_what_follows_code_is_wrapped_again() -> None:
    code = "```\n" + "word " * 40 + "\n```\n"
    assert wrapped(code + "word " * 40).startswith(code)
    assert max(map(len, wrapped(code + "word " * 40).removeprefix(code).splitlines())) <= 80


def test_the_lines_of_an_item_begin_below_its_text() -> None:
    assert wrapped("- " + "word " * 20).split("\n") == [
        "- " + "word " * 14 + "word",
        "  " + "word " * 4 + "word",
    ]
    assert wrapped("12. " + "word " * 20).split("\n")[1].startswith("    word")
    assert wrapped("      - " + "word " * 20).split("\n")[1].startswith("        word")


def test_a_word_that_is_longer_than_a_line_is_left_to_the_terminal() -> None:
    address = "https://example.com/" + "a" * 100
    assert wrapped(f"see {address} for more") == f"see\n{address} for more"
    rest = "word " * 12
    assert wrapped(f"see {address} {rest}").split("\n")[2].startswith("word")


def test_a_word_is_shown_when_the_next_one_begins() -> None:
    lines = WrappedText(lambda: 80)
    assert [lines.add(piece) for piece in ("He", "llo", " the", "re", "\n")] == [
        "",
        "",
        "Hello",
        "",
        " there\n",
    ]


def test_the_width_is_that_of_the_moment() -> None:
    width = 80
    lines = WrappedText(lambda: width)
    assert "\n" not in lines.add("word " * 10)
    width = 20
    assert "\n" in lines.add("word " * 10)
