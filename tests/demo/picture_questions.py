"""What the demo that sees is asked: questions about drawn pictures, each with its only right answer.

A conversation has one to three questions about one or two pictures, or one without any. All is drawn from
seeded generators. Held out of training are the pictures of HELD_OUT_SEED, which no training draws, and one in
ten numbers of a display: they are chosen by a hash, so that they never change with the seed.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
from PIL import Image

from edgephi.reference.pictures.display import some_display
from edgephi.reference.pictures.gauge import HIGHEST, LOWEST, STEP, some_gauge
from edgephi.reference.pictures.lights import COLOURS, Lights, some_lights

HELD_OUT_SEED = 15
NUMBERS = range(10, 1000)
LAMPS = 4


@dataclass(frozen=True)
class Question:
    """What is asked, and what must be answered, character by character."""

    text: str
    answer: str


LABELS = (3, 11, 11, 11, 11, 6, 6, 6, 6)
"""Classes of a picture's labels: subject; reading; digits, 10 if missing; colours of lamps, 5 if off."""
NO_LABEL = -100


@dataclass(frozen=True)
class Picture:
    """A picture and what can be asked about it. The first question is the ordinary one."""

    image: Image.Image
    subject: str
    """gauge, display or lights."""
    questions: tuple[tuple[Question, ...], ...]
    """All wordings of each question."""
    labels: tuple[int, ...]
    """What it shows, as one class for each of LABELS; NO_LABEL for what is not in it."""


class Subject(Protocol):
    """What must be known of a picture to ask about it."""

    @property
    def subject(self) -> str:
        """As in Picture."""

    @property
    def questions(self) -> tuple[tuple[Question, ...], ...]:
        """As in Picture."""


@dataclass(frozen=True)
class Turn:
    """A question; `picture` is the place of the picture that comes with it, in the conversation's."""

    question: Question
    picture: int | None = None


_GAUGE = (
    "What does the gauge say?",
    "What does the gauge read?",
    "What is the reading of the gauge?",
    "Read the gauge.",
    "Which value does the needle point at?",
)
_DISPLAY = (
    "What does the display say?",
    "What does the display show?",
    "Which number is on the display?",
    "Read the display.",
    "What number do you see?",
)
_LIGHTS = (
    "Which lights are on?",
    "Which of the lights are on?",
    "Which lamps are on?",
    "Tell me which lights are on.",
    "What lights are lit?",
)
_COUNT = ("How many lights are on?", "How many of the lights are on?", "How many lamps are lit?")
_COLOUR = ("What colour is light {}?", "What color is light {}?", "Which colour has light {}?")
_HALF = ("Is the gauge above {}?", "Is the reading above {}?", "Does the gauge say more than {}?")
_DIGIT = ("What is the {} digit?", "Which digit is the {} one?", "Tell me the {} digit.")
_ORDINALS = ("first", "second", "third")
_SUBJECT = ("What is in the picture?", "What do you see?", "What does the picture show?")
_SUBJECTS = {"gauge": "a gauge", "display": "a display", "lights": "four lights"}

WITHOUT_PICTURE = "There is no picture. Please give me one."
WHO = "I am the edgephi vision demo, a small model that runs on this device."
WHAT = "I read gauges, displays and lights in pictures."
_PLAIN = (
    (("Who are you?", "What are you?", "Tell me who you are."), WHO),
    (("What can you do?", "What can you read?", "Help", "How can you help me?"), WHAT),
    (("Hello", "Hi", "Good morning", "Hello!"), "Hello! Show me a picture."),
    (("Thank you", "Thanks", "Thanks!"), "You are welcome."),
    ((*_GAUGE, *_DISPLAY[:4], *_LIGHTS, *_SUBJECT), WITHOUT_PICTURE),
)


def _worded(wordings: Sequence[str], answer: str) -> tuple[Question, ...]:
    return tuple(Question(wording, answer) for wording in wordings)


def _listed(numbers: Sequence[int]) -> str:
    """Which lights are on, as a sentence."""
    if not numbers:
        return "No light is on."
    if len(numbers) == LAMPS:
        return "All lights are on."
    if len(numbers) == 1:
        return f"Light {numbers[0]} is on."
    return f"Lights {', '.join(map(str, numbers[:-1]))} and {numbers[-1]} are on."


def _counted(count: int) -> str:
    return "1 light is on." if count == 1 else f"{count} lights are on."


def is_held_out(number: int) -> bool:
    """Whether no training sees this number on a display."""
    return hashlib.sha256(f"display {number}".encode()).digest()[0] < 26


@cache
def _numbers(held_out: bool) -> tuple[int, ...]:
    return tuple(number for number in NUMBERS if is_held_out(number) == held_out)


def gauge_picture(rng: np.random.Generator) -> Picture:
    """A gauge that reads one of its ticks."""
    reading = int(rng.integers(LOWEST // STEP, HIGHEST // STEP + 1)) * STEP
    limit = int(rng.integers(1, 10)) * STEP
    return Picture(
        some_gauge(rng, reading).draw(),
        "gauge",
        (
            _worded(_GAUGE, f"The gauge says {reading}."),
            _worded(
                [text.format(limit) for text in _HALF],
                f"{'Yes' if reading > limit else 'No'}, it says {reading}.",
            ),
            _worded(_SUBJECT, "The picture shows a gauge."),
        ),
        (0, reading // STEP, *[NO_LABEL] * 7),
    )


def display_picture(rng: np.random.Generator, held_out: bool = False) -> Picture:
    """A display with a number of two or three digits, the former more often than by chance."""
    numbers = _numbers(held_out)
    few = tuple(number for number in numbers if number < 100)
    number = int(rng.choice(few if rng.random() < 0.3 else numbers))
    return Picture(
        some_display(rng, number).draw(),
        "display",
        (
            _worded(_DISPLAY, f"The display says {number}."),
            *(
                _worded([text.format(ordinal) for text in _DIGIT], f"The {ordinal} digit is {digit}.")
                for ordinal, digit in zip(_ORDINALS, str(number), strict=False)
            ),
            _worded(_SUBJECT, "The picture shows a display."),
        ),
        (
            1,
            NO_LABEL,
            *[int(digit) for digit in str(number)],
            *[10] * (3 - len(str(number))),
            *[NO_LABEL] * 4,
        ),
    )


def _lamp_questions(lights: Lights) -> Iterator[tuple[Question, ...]]:
    for place, lamp in enumerate(lights.lamps, 1):
        state = lamp.colour if lamp.on else "off"
        yield _worded([text.format(place) for text in _COLOUR], f"Light {place} is {state}.")


def lights_picture(rng: np.random.Generator) -> Picture:
    """Four lamps, each on or off."""
    on = tuple(bool(each) for each in rng.integers(0, 2, LAMPS))
    lights = some_lights(rng, on)
    names = list(COLOURS)
    return Picture(
        lights.draw(),
        "lights",
        (
            _worded(_LIGHTS, _listed([place for place, lit in enumerate(on, 1) if lit])),
            *_lamp_questions(lights),
            _worded(_COUNT, _counted(sum(on))),
            _worded(_SUBJECT, "The picture shows four lights."),
        ),
        (2, *[NO_LABEL] * 4, *(names.index(lamp.colour) if lamp.on else 5 for lamp in lights.lamps)),
    )


SUBJECTS = (gauge_picture, display_picture, lights_picture)


def some_picture(rng: np.random.Generator) -> Picture:
    """A picture for training, of any subject; gauges a little more often, which are the hardest."""
    return SUBJECTS[int(rng.choice(3, p=(0.4, 0.35, 0.25)))](rng)


def _any(rng: np.random.Generator, wordings: Sequence[Question]) -> Question:
    return wordings[int(rng.integers(len(wordings)))]


def _about(rng: np.random.Generator, picture: Subject, first: bool) -> Question:
    """A question about a picture: mostly the ordinary one, and now and then one about something else."""
    chance = rng.random()
    if chance < 0.03:
        others = {"gauge": _GAUGE, "display": _DISPLAY[:4], "lights": _LIGHTS}
        other = str(rng.choice([subject for subject in others if subject != picture.subject]))
        wording = others[other][int(rng.integers(len(others[other])))]
        return Question(wording, f"The picture shows {_SUBJECTS[picture.subject]}.")
    ordinary = 0.75 if first else 0.3
    choices = picture.questions[:1] if chance < ordinary else picture.questions[1:]
    return _any(rng, choices[int(rng.integers(len(choices)))])


def plain_question(rng: np.random.Generator) -> Question:
    """A question that comes without a picture."""
    wordings, answer = _PLAIN[int(rng.choice(len(_PLAIN), p=(0.15, 0.15, 0.1, 0.1, 0.5)))]
    return Question(wordings[int(rng.integers(len(wordings)))], answer)


def some_conversation(rng: np.random.Generator, pictures: Sequence[Subject]) -> tuple[Turn, ...]:
    """One or two questions about each of the pictures, in order; without pictures one that needs none."""
    if not pictures:
        return (Turn(plain_question(rng)),)
    turns = []
    for place, picture in enumerate(pictures):
        turns.append(Turn(_about(rng, picture, first=True), place))
        more = 2 if picture.subject == "lights" else 1
        turns += [Turn(_about(rng, picture, first=False)) for _ in range(more) if rng.random() < 0.5]
    return tuple(turns)


@dataclass(frozen=True)
class Examined:
    """A held-out picture and the question that is asked about it."""

    picture: Picture
    question: Question


def held_out_pictures(count: int = 300, seed: int = HELD_OUT_SEED) -> Iterator[Examined]:
    """Pictures that no training has seen: a gauge, a display, lights, and so on.

    Every other display shows a number that no training has seen on any. Of every two lights the first is
    asked which are on, the other something else. A larger count begins with the pictures of a smaller one.
    """
    rng = np.random.default_rng(seed)
    for place in range(count):
        turn = place // 3
        match place % 3:
            case 0:
                picture = gauge_picture(rng)
            case 1:
                picture = display_picture(rng, held_out=turn % 2 == 1)
            case _:
                picture = lights_picture(rng)
        asked = picture.questions[0]
        if place % 3 == 2 and turn % 2 == 1:
            asked = picture.questions[1 + int(rng.integers(len(picture.questions) - 2))]
        yield Examined(picture, _any(rng, asked))
