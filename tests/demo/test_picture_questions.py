"""What the demo that sees is asked: the same every time, answered truly, and not what it was trained on."""

from itertools import islice

import numpy as np

from tests.demo.picture_questions import (
    LAMPS,
    display_picture,
    gauge_picture,
    held_out_pictures,
    is_held_out,
    lights_picture,
    some_conversation,
    some_picture,
)


def test_held_out_pictures_are_the_same_every_time() -> None:
    few = [*held_out_pictures(9)]
    again = [*islice(held_out_pictures(30), 9)]
    assert [each.question for each in few] == [each.question for each in again]
    assert [each.picture.image.tobytes() for each in few] == [each.picture.image.tobytes() for each in again]
    assert [each.picture.subject for each in few] == ["gauge", "display", "lights"] * 3


def test_no_training_shows_a_held_out_number() -> None:
    held_out = [number for number in range(10, 1000) if is_held_out(number)]
    assert 60 < len(held_out) < 140
    rng = np.random.default_rng(1)
    for _ in range(100):
        for unseen in (False, True):
            [ordinary, *_] = display_picture(rng, held_out=unseen).questions[0]
            assert is_held_out(int(ordinary.answer.rstrip(".").split()[-1])) == unseen


def test_answers_agree_with_the_labels() -> None:
    rng = np.random.default_rng(2)
    for _ in range(30):
        gauge, display, lights = gauge_picture(rng), display_picture(rng), lights_picture(rng)
        assert gauge.questions[0][0].answer == f"The gauge says {gauge.labels[1] * 10}."
        digits = "".join(str(digit) for digit in display.labels[2:5] if digit < 10)
        assert display.questions[0][0].answer == f"The display says {digits}."
        on = [place for place, colour in enumerate(lights.labels[5:], 1) if colour < 5]
        said = [int(word.strip(",")) for word in lights.questions[0][0].answer.split() if word[0].isdigit()]
        assert said == (on if len(on) < LAMPS else [])


def test_each_picture_of_a_conversation_comes_with_its_first_question() -> None:
    rng = np.random.default_rng(3)
    pictures = [some_picture(rng) for _ in range(2)]
    for _ in range(50):
        turns = some_conversation(rng, pictures)
        assert [turn.picture for turn in turns if turn.picture is not None] == [0, 1]
        assert turns[0].picture == 0
    [alone] = some_conversation(rng, [])
    assert alone.picture is None
