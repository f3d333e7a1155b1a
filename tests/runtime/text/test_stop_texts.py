"""Stop texts, wherever an answer is cut into pieces."""

from hypothesis import given
from hypothesis import strategies as st

from edgephi.runtime.text.stop_texts import StopTexts

LETTERS = st.text("ab<", max_size=12)
STOPS = st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3)


@given(pieces=st.lists(LETTERS), stops=STOPS)
def test_pieces_show_what_the_whole_text_would(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    # The one that is complete first counts; of those that are so together, the longest.
    ends = [(whole.find(stop) + len(stop), whole.find(stop)) for stop in stops if stop in whole]
    end = min(ends)[1] if ends else None
    filtered = StopTexts(stops)
    shown = "".join(filtered.feed(piece) for piece in pieces) + filtered.rest()
    assert shown == whole[:end]
    assert filtered.found == (end is not None)


@given(pieces=st.lists(LETTERS), stops=STOPS)
def test_nothing_is_held_back_that_cannot_become_a_stop_text(pieces: list[str], stops: list[str]) -> None:
    filtered = StopTexts(stops)
    read = shown = ""
    for piece in pieces:
        read += piece
        shown += filtered.feed(piece)
        if not filtered.found:
            held = read[len(shown) :]
            assert read.startswith(shown)
            assert not held or any(stop.startswith(held) and stop != held for stop in stops)


def test_without_stop_texts_all_comes_through() -> None:
    filtered = StopTexts(())
    assert [filtered.feed("a"), filtered.feed("b"), filtered.rest()] == ["a", "b", ""]
