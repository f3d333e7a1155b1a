"""The table of rooms in the documents against the house."""

from tests.docs.rooms import CONCEPTS, with_rooms


def test_the_rooms_are_those_of_the_code() -> None:
    page = CONCEPTS.read_text(encoding="utf-8")
    assert page == with_rooms(page), "run python -m tests.docs.rooms"
