"""How much room the images of all requests have."""

import pytest

from edgephi.server.images.room import ImageRoom
from edgephi.server.refusal import Refusal


def test_what_a_request_holds_is_free_when_it_is_over() -> None:
    room = ImageRoom(100, 60)
    with room.place() as first:
        first.take(60)
        assert (room.held, first.left) == (60, 0)
        with pytest.raises(Refusal) as caught, room.place() as second:
            second.take(30)
            second.take(20)
        assert caught.value.status == 429
        assert caught.value.headers["retry-after"]
        assert room.held == 60
    assert room.held == 0


def test_one_that_waits_holds_on() -> None:
    room = ImageRoom(100, 60)
    with room.place() as place:
        place.take(50)
        place.stay()
    assert room.held == 50
    place.leave()
    place.leave()
    assert room.held == 0


def test_more_than_all_the_room_is_too_large_and_not_too_early() -> None:
    room = ImageRoom(100, 60)
    with pytest.raises(Refusal) as caught:
        room.place().take(101)
    assert caught.value.status == 413


def test_a_model_that_reads_text_only_has_none() -> None:
    assert ImageRoom(0, 0).place().left == 0
