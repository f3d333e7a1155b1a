"""A trained model that is none of the family's, with its own tokenizer and template, on every engine."""

# ruff: noqa: RUF001 - letters that look like others are what makes a text hard

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import edgephi.runtime
from edgephi.reference import evaluation_text
from edgephi.runtime.session import Session
from tests.bench.answers import (
    QUESTIONS,
    TARGETS,
    Wanted,
    answers,
    build_with,
    recipe_at,
    same,
    wanted_answers,
)
from tests.phi_3_chat import as_phi_3
from tests.tokenizer_texts import HARD, OTHER_SPACES, SPACES

pytestmark = pytest.mark.slow

TURKISH = tuple(
    f"Ankara'{ending} ve İzmir'{ending} 2024'te" for ending in ("da", "de", "ta", "ya", "nın", "dan")
)
LINES = (
    "a)\r\nb",
    '{"a": [1, {"b": 2}}, ]}',
    "}},",
    "x = 1234567.89\n\tif x:\n\t\tpass\n",
    "1\u0301 ²³ ½ Ⅷ ٣٤ 五",
)


def real_texts() -> list[str]:
    """Sentences in all the languages of the evaluation text, and what tokenizers are known to differ on."""
    found = [*TURKISH, *LINES]
    for passage in evaluation_text.passages(as_phi_3):
        words = passage.text.split(" ")
        found += [" ".join(words[start : start + 12]) for start in range(0, len(words), 12)]
    for place, text in enumerate(HARD):
        found.append(
            f"{SPACES[place % len(SPACES)]}{text}{OTHER_SPACES[place % len(OTHER_SPACES)]}{text} {text}"
        )
    return found


@pytest.fixture(scope="module")
def wanted(trained: Path) -> list[Wanted]:
    return wanted_answers(trained, QUESTIONS[::4], rounded=False)


@pytest.fixture(scope="module", params=TARGETS)
def bundle(request: pytest.FixtureRequest, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / request.param
    return build_with(recipe_at(8), request.param, trained, folder)


@pytest.fixture(scope="module")
def session(bundle: Path) -> Session:
    return edgephi.runtime.load(bundle, provider="cpu")


@pytest.fixture(scope="module")
def theirs(trained: Path) -> Any:
    return AutoTokenizer.from_pretrained(trained)


def test_tokens_are_those_of_the_tokenizers_library(session: Session, theirs: Any) -> None:
    texts = [text for text in real_texts() if "\0" not in text]
    assert len(texts) > 250
    library = theirs.backend_tokenizer
    different = [
        text
        for text in texts
        if session.engine.encode(text) != library.encode(text, add_special_tokens=False).ids
    ]
    assert different == []


def test_conversations_are_those_of_transformers(session: Session, theirs: Any) -> None:
    turns = [{"role": "user", "content": " Hello"}, {"role": "assistant", "content": "Hi 12.\n"}]
    asked = [*turns, {"role": "user", "content": "Ankara'da 🎉?"}]
    for messages in (asked[:1], asked, [{"role": "system", "content": "Be brief. "}, *asked]):
        expected = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert session.encode_chat(messages) == expected


def test_at_8_bits_most_answers_begin_as_in_float32(bundle: Path, wanted: list[Wanted]) -> None:
    found = answers(bundle, wanted)
    for each, text in zip(wanted, found, strict=True):
        print(f"{each.question}\n  {each.answer!r}\n  {text!r}")
    # A small model often has two words that are nearly as likely: bfloat16, its own published type, changes 4
    # to 7 of 20 answers, which depends on the processor.
    assert 2 * same(wanted, found) >= len(wanted)


def test_an_answer_ends(session: Session) -> None:
    generation = session.generate("What is the capital of France?")
    assert generation.text == "The capital of France is Paris."
    assert generation.stop_reason == "stop"
