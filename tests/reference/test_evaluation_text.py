"""The evaluation text: fixed, wide, and cut the same way with every tokenizer."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer  # type: ignore[import-untyped]

from edgephi.reference.evaluation_text import (
    EVALUATION_TEXT,
    TOKENS,
    EvaluationLevel,
    _slice_sizes,
    evaluation_tokens,
    passages,
)

# What the passages of each version hash to. A changed passage needs a new version and a new line here.
HASHES = {
    "edgephi-eval-1": "82e375192600a283b96dfccf7c595213f68a71eb2170956892b30a27a3b90492",
}
REAL_TOKENIZERS = Path(__file__).parents[2].parent / "shared" / "tokenizers"


def as_bytes(text: str) -> list[int]:
    return list(text.encode())


def as_words(text: str) -> list[str]:
    return text.split()


def test_the_text_is_the_one_its_version_names() -> None:
    whole = hashlib.sha256()
    for passage in passages():
        whole.update(f"{passage.name}\0{passage.language}\0{passage.text}\0".encode())
    assert whole.hexdigest() == HASHES[EVALUATION_TEXT], "a changed passage needs a new EVALUATION_TEXT"


def test_covers_domains_and_languages() -> None:
    found = passages()
    assert len(found) == 16
    assert {passage.language for passage in found} == {"en", "de", "fr", "es", "ru", "zh", "ar", "hi"}
    assert len({passage.name for passage in found}) == len(found)
    assert all(passage.text.strip() and "\r" not in passage.text for passage in found)
    assert [passage.name for passage in passages("device")] == ["device"]


@pytest.mark.parametrize("level", ["quick", "full"])
def test_slices_are_stable_and_even(level: EvaluationLevel) -> None:
    tokens = evaluation_tokens(as_bytes, level, context=4096)
    share = TOKENS[level] // 16
    assert tokens == evaluation_tokens(as_bytes, level, context=4096)
    assert tokens == [byte for passage in passages() for byte in passage.text.encode()[:share]]


def test_never_longer_than_the_context() -> None:
    assert len(evaluation_tokens(as_bytes, "full", context=100)) == 100
    assert len(evaluation_tokens(as_bytes, "quick", context=100, domain="device")) == 100


def test_a_tokenizer_with_long_tokens_gives_all_it_has() -> None:
    # One id a word: some passages are shorter than their share and the others make up for it.
    words = sum(len(as_words(passage.text)) for passage in passages())

    def encode(text: str) -> list[int]:
        return [len(word) for word in as_words(text)]

    assert len(evaluation_tokens(encode, "full", context=4096)) == min(words, 2048)
    assert len(evaluation_tokens(encode, "quick", context=4096)) == 256


def test_device_commands_are_whole_conversations() -> None:
    [device] = passages("device")
    turns = device.text.split("<|end|>\n")
    assert turns.pop() == ""
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        assert question.startswith("<|user|>\n")
        assert answer.startswith("<|assistant|>\n")


@pytest.mark.skipif(not REAL_TOKENIZERS.is_dir(), reason="needs ../shared/tokenizers")
@pytest.mark.parametrize("name", ["phi-3-mini", "phi-3-medium"])
def test_real_tokenizers_fill_both_levels(name: str) -> None:
    tokenizer = Tokenizer.from_file(str(REAL_TOKENIZERS / name / "tokenizer.json"))

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    for passage in passages():
        assert 128 <= len(encode(passage.text)) <= 1024, passage.name
    for level, count in TOKENS.items():
        tokens = evaluation_tokens(encode, level, context=4096)
        assert len(tokens) == count
        assert {32007, 32010, 32001} <= set(tokens) or level == "quick"  # <|end|>, <|user|>, <|assistant|>


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(0, 400))
def test_a_budget_is_shared_evenly(lengths: list[int], budget: int) -> None:
    sizes = _slice_sizes(lengths, budget)
    assert sum(sizes) == min(sum(lengths), budget)
    assert all(0 <= size <= length for size, length in zip(sizes, lengths, strict=True))
    cut = [size for size, length in zip(sizes, lengths, strict=True) if size < length]
    if cut:
        assert max(cut) - min(cut) <= 1
        assert max(sizes) <= min(cut) + 1
