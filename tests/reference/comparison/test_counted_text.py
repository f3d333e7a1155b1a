"""Which tokens of a text are counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi.reference.comparison.counted_text import FIRST_COUNTED, counted_text, first_counted

passages = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=60), min_size=1, max_size=5)


def test_the_beginning_of_each_passage_is_left_out() -> None:
    text = counted_text([list(range(100, 140)), list(range(200, 250))])
    assert text.rows.tolist() == [*range(16, 40), *range(40 + 16, 40 + 50)]
    assert text.passage.tolist() == [0] * 24 + [1] * 34
    assert text.following.tolist() == [*range(117, 140), -1, *range(217, 250), -1]


@given(passages.filter(lambda texts: max(map(len, texts)) > 1))
def test_every_counted_token_is_in_its_passage_and_knows_the_next(texts: list[list[int]]) -> None:
    text = counted_text(texts)
    tokens = [token for ids in texts for token in ids]
    starts = [sum(map(len, texts[:number])) for number in range(len(texts))]
    for row, number, following in zip(text.rows, text.passage, text.following, strict=True):
        position = row - starts[number]
        assert first_counted(len(texts[number])) <= position < len(texts[number])
        last = position == len(texts[number]) - 1
        assert following == (-1 if last else tokens[row + 1])


@pytest.mark.parametrize(("tokens", "first"), [(1, 0), (2, 0), (3, 0), (4, 1), (33, 15), (34, 16), (999, 16)])
def test_of_a_short_passage_the_second_half_is_counted(tokens: int, first: int) -> None:
    assert first_counted(tokens) == first <= FIRST_COUNTED


@pytest.mark.parametrize("texts", [[], [[5]], [[5], [6]]])
def test_a_text_without_two_tokens_in_a_row_has_nothing_to_measure(texts: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="at least two tokens"):
        counted_text(texts)
