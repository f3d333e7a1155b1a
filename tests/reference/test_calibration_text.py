"""The calibration text: ours is wide and apart from what is measured on; the user's takes its place."""

# ruff: noqa: RUF001 - Chinese ends of sentences

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edgephi.reference import calibration_text
from edgephi.reference.calibration_text import CALIBRATION_TEXT, calibration_passages, read_calibration
from edgephi.reference.evaluation_text import passages as evaluation_texts
from edgephi.reference.passages import (
    DOMAINS,
    Encode,
    Passage,
    StoredConversation,
    in_words,
    shipped_passages,
)
from tests.phi_3_chat import as_phi_3
from tests.tokenizer_texts import demo_tokenizer, published_tokenizer

LATIN = {"cs", "da", "de", "es", "fi", "fr", "hu", "id", "it", "nl", "pl", "pt", "ro", "sv", "tr", "vi"}
OTHERS = {"ar", "el", "fa", "he", "hi", "ja", "ko", "ru", "uk", "zh"}
WORDS_SHARED = 8


def encoder(file: Path) -> Encode:
    tokenizer = Tokenizer.from_file(str(file))
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def ours() -> list[Passage]:
    folder = resources.files(calibration_text.__package__) / "calibration"
    return [in_words(passage, as_phi_3) for passage in shipped_passages(folder)]


def words(text: str) -> list[str]:
    """Words in small letters; of Chinese and Japanese, which do not part them, the letters."""
    return re.findall(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W\u3040-\u30ff\u4e00-\u9fff]+", text.lower())


def sequences(text: str) -> Iterator[tuple[str, ...]]:
    found = words(text)
    return zip(*(found[start:] for start in range(WORDS_SHARED)), strict=False)


def sentences(text: str) -> set[tuple[str, ...]]:
    """The sentences of a text, as words; what has three words or fewer ("Thank you.") is nobody's own."""
    pieces = re.split(r"(?<=[.!?…])\s|[。！？।؟\n]|<\|\w+\|>", text)
    return {tuple(words(piece)) for piece in pieces if len(words(piece)) > 3}


def test_covers_domains_and_languages() -> None:
    found = ours()
    assert {passage.domain for passage in found} == set(DOMAINS)
    assert {passage.language for passage in found} == {"en", *LATIN, *OTHERS}
    assert len({passage.name for passage in found}) == len(found)
    english = [passage for passage in found if passage.language == "en"]
    told = [passage for passage in english if passage.domain not in ("code", "data")]
    assert 0.45 <= len(told) / len(found) <= 0.55
    assert all(passage.text.strip() and "\r" not in passage.text for passage in found)


def test_no_conversation_leaves_the_system_message_to_the_template() -> None:
    """A release with another default system prompt has the same importance, so the same weights."""
    folder = resources.files(calibration_text.__package__) / "calibration"
    stored = [each for each in shipped_passages(folder) if isinstance(each, StoredConversation)]
    assert len(stored) > 10
    assert {each.messages[0]["role"] for each in stored} == {"system"}


def test_no_sentence_of_it_is_measured_on() -> None:
    measured = [*evaluation_texts(as_phi_3), *evaluation_texts(as_phi_3, "device")]
    seen = {sequence for passage in measured for sequence in sequences(passage.text)}
    said = set[tuple[str, ...]]().union(*(sentences(passage.text) for passage in measured))
    assert len(seen) > 3000
    assert len(said) > 250
    for passage in ours():
        assert not seen.intersection(sequences(passage.text)), passage.name
        assert not said & sentences(passage.text), passage.name


def test_no_passage_is_told_twice() -> None:
    seen: dict[tuple[str, ...], str] = {}
    for passage in ours():
        for sequence in set(sequences(passage.text)):
            assert sequence not in seen, (passage.name, seen[sequence], sequence)
            seen[sequence] = passage.name


def test_every_passage_is_long_enough_for_the_demos_tokenizer() -> None:
    encode = encoder(demo_tokenizer())
    assert min(len(encode(passage.text)) for passage in ours()) >= 100


@pytest.mark.parametrize("name", ["phi-3-mini", "phi-3-medium"])
def test_published_tokenizers_make_enough_of_it(name: str) -> None:
    encode = encoder(published_tokenizer(name))
    lengths = [len(encode(passage.text)) for passage in ours()]
    assert len(lengths) >= 40
    assert min(lengths) >= 150
    assert sum(lengths) >= 16_000


@pytest.mark.parametrize(("tokens", "count"), [(512, 5), (1024, 10), (1600, 16), (4096, 40)])
def test_tokens_are_shared_among_passages_of_a_hundred(tokens: int, count: int) -> None:
    encode = encoder(demo_tokenizer())
    found = calibration_passages(encode, as_phi_3, tokens=tokens, context=4096)
    assert len(found) == count
    assert sum(len(passage.ids) for passage in found) == tokens
    assert min(len(passage.ids) for passage in found) >= 100
    texts = {passage.name: passage.text for passage in ours()}
    for passage in found:
        assert list(passage.ids) == list(encode(texts[passage.name]))[: len(passage.ids)]


@pytest.mark.parametrize("tokens", [1600, 4096])
def test_a_part_of_it_is_as_wide_as_the_whole(tokens: int) -> None:
    found = calibration_passages(encoder(demo_tokenizer()), as_phi_3, tokens=tokens, context=4096)
    assert len({passage.domain for passage in found}) >= 6
    english = sum(passage.language == "en" for passage in found)
    assert 0.5 <= english / len(found) <= 0.75
    assert len({passage.language for passage in found}) >= 4


def test_ours_has_a_name_and_the_hash_of_its_files() -> None:
    found = read_calibration(None, encoder(demo_tokenizer()), as_phi_3, tokens=1024, context=4096)
    assert found.name == CALIBRATION_TEXT
    assert re.fullmatch(r"[0-9a-f]{64}", found.sha256)
    assert list(found.passages) == calibration_passages(
        encoder(demo_tokenizer()), as_phi_3, tokens=1024, context=4096
    )
    assert found == read_calibration(None, encoder(demo_tokenizer()), as_phi_3, tokens=1024, context=4096)


def test_the_users_text_takes_its_place(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("turn on the kitchen light and then the lamp in the hall. " * 60)
    found = read_calibration(file, encoder(demo_tokenizer()), as_phi_3, tokens=512, context=4096)
    assert found.name == "notes.txt"
    assert {passage.domain for passage in found.passages} == {"text"}
    assert sum(len(passage.ids) for passage in found.passages) == 512
