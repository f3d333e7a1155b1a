"""Which rows of a checkpoint's tensor become which rows of the model's."""

from hypothesis import given, settings
from hypothesis import strategies as st

from edgephi.checkpoint.weights.source import Source
from tests.property_profile import examples

FIRST, STEP = st.integers(0, 20), st.integers(1, 5)


@settings(max_examples=examples(100))
@given(st.integers(1, 30), FIRST, STEP, FIRST, STEP, st.integers(0, 180), st.integers(0, 180))
def test_a_part_of_it_is_what_falls_between_two_rows(
    count: int, first: int, step: int, into_first: int, into_step: int, one: int, other: int
) -> None:
    rows = range(first, first + count * step, step)
    into = range(into_first, into_first + count * into_step, into_step)
    start, stop = sorted((one, other))
    pairs = zip(*Source("x", rows, into).within(start, stop), strict=True)
    assert list(pairs) == [(row, to) for row, to in zip(rows, into, strict=True) if start <= to < stop]
