"""Tokens shared among passages: long ones, evenly, and the same each time."""

from hypothesis import given
from hypothesis import strategies as st

from edgephi.reference.passages import Passage, evenly_spaced
from edgephi.reference.token_shares import divide, slice_sizes
from tests.phi_3_chat import as_phi_3


def as_bytes(text: str) -> list[int]:
    return list(text.encode())


def of_lengths(lengths: list[int]) -> list[Passage]:
    return [Passage(str(number), "en", "prose", "a" * length) for number, length in enumerate(lengths)]


def shares(
    lengths: list[int], *, tokens: int, context: int = 4096, passage_tokens: int = 100
) -> dict[str, int]:
    found = divide(
        of_lengths(lengths), as_bytes, as_phi_3, tokens=tokens, context=context, passage_tokens=passage_tokens
    )
    return {passage.name: len(passage.ids) for passage in found}


def test_few_tokens_make_few_passages() -> None:
    assert shares([300] * 10, tokens=1000) == {str(number): 100 for number in range(10)}
    assert shares([300] * 10, tokens=512) == {"1": 102, "3": 102, "5": 102, "7": 103, "9": 103}
    assert shares([300] * 10, tokens=50) == {"5": 50}


def test_more_passages_where_those_taken_are_too_short() -> None:
    found = shares([60] * 10, tokens=512)
    assert sum(found.values()) == 512
    assert len(found) == 9
    assert set(shares([60] * 10, tokens=1000).values()) == {60}


def test_a_short_context_makes_short_passages() -> None:
    assert shares([300] * 20, tokens=512, context=32) == {str(number): 32 for number in evenly_spaced(16, 20)}


def test_what_is_not_taken_is_not_encoded() -> None:
    encoded = []

    def encode(text: str) -> list[int]:
        encoded.append(text)
        return as_bytes(text)

    divide(of_lengths([300] * 1000), encode, as_phi_3, tokens=300, context=4096, passage_tokens=100)
    assert len(encoded) == 3


@given(
    st.lists(st.integers(0, 400), max_size=30),
    st.integers(1, 3000),
    st.integers(1, 300),
    st.integers(1, 150),
)
def test_all_tokens_are_given_if_there_are_so_many(
    lengths: list[int], tokens: int, context: int, passage_tokens: int
) -> None:
    found = shares(lengths, tokens=tokens, context=context, passage_tokens=passage_tokens)
    assert sum(found.values()) == min(tokens, sum(min(length, context) for length in lengths))
    assert all(0 < size <= min(lengths[int(name)], context) for name, size in found.items())
    assert found == shares(lengths, tokens=tokens, context=context, passage_tokens=passage_tokens)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(0, 400))
def test_a_budget_is_shared_evenly(lengths: list[int], budget: int) -> None:
    sizes = slice_sizes(lengths, budget)
    assert sum(sizes) == min(sum(lengths), budget)
    assert all(0 <= size <= length for size, length in zip(sizes, lengths, strict=True))
    cut = [size for size, length in zip(sizes, lengths, strict=True) if size < length]
    if cut:
        assert max(cut) - min(cut) <= 1
        assert max(sizes) <= min(cut) + 1
