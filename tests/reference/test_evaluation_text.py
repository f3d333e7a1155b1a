"""The evaluation text: fixed, wide, and cut the same way with every tokenizer."""

import hashlib
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edgephi.reference.evaluation_text import (
    EVALUATION_TEXT,
    PASSAGE_TOKENS,
    PASSAGES,
    Domain,
    EvaluationLevel,
    evaluation_passages,
    passages,
)
from edgephi.reference.passages import DOMAINS
from tests.phi_3_chat import as_phi_3
from tests.tokenizer_texts import demo_tokenizer, published_tokenizer

# What the passages of each version hash to. A changed passage needs a new version and a new line here.
HASHES = {
    "edgephi-eval-2": "1794ede43032c1fb36fe9448da110a702eb6aab1d10af3fbb18559ec285f7b0e",
}


def as_bytes(text: str) -> list[int]:
    return list(text.encode())


def test_the_text_is_the_one_its_version_names() -> None:
    whole = hashlib.sha256(repr((PASSAGES, PASSAGE_TOKENS)).encode())
    for passage in (*passages(as_phi_3), *passages(as_phi_3, "device")):
        whole.update(f"{passage.name}\0{passage.language}\0{passage.domain}\0{passage.text}\0".encode())
    assert whole.hexdigest() == HASHES[EVALUATION_TEXT], "a changed passage needs a new EVALUATION_TEXT"


@pytest.mark.parametrize("domain", ["general", "device"])
@pytest.mark.parametrize("level", ["quick", "full"])
def test_passages_begin_where_they_begin_and_are_equally_long(level: EvaluationLevel, domain: Domain) -> None:
    found = evaluation_passages(as_bytes, as_phi_3, level, context=4096, domain=domain)
    texts = {passage.name: passage.text for passage in passages(as_phi_3, domain)}
    assert len(found) <= PASSAGES[level]
    for passage in found:
        assert bytes(passage.ids) == texts[passage.name].encode()[: PASSAGE_TOKENS[level]]
    assert found == evaluation_passages(as_bytes, as_phi_3, level, context=4096, domain=domain)


def test_no_passage_is_longer_than_the_context() -> None:
    found = evaluation_passages(as_bytes, as_phi_3, "full", context=100)
    assert {len(passage.ids) for passage in found} == {100}


def test_covers_domains_and_languages() -> None:
    found = passages(as_phi_3)
    assert {passage.domain for passage in found} == set(DOMAINS)
    assert len({passage.name for passage in found}) == len(found)
    assert all(passage.text.strip() and "\r" not in passage.text for passage in found)
    assert {passage.domain for passage in passages(as_phi_3, "device")} == {"device"}


def test_half_of_it_is_english_and_every_part_is_there() -> None:
    found = passages(as_phi_3)
    assert len(found) == PASSAGES["full"]
    assert {passage.language for passage in found} == {"en", "de", "fr", "es", "ru", "zh", "ar", "hi"}
    assert len(found) / 2 <= sum(passage.language == "en" for passage in found) <= len(found) * 2 / 3
    assert sum(passage.domain == "device" for passage in found) == 2


def test_quick_is_a_sample_of_it() -> None:
    found = evaluation_passages(as_bytes, as_phi_3, "quick", context=4096)
    assert {"chat", "code", "device", "instructions", "prose"} <= {passage.domain for passage in found}
    assert {"en", "de", "fr", "ru"} <= {passage.language for passage in found}


@pytest.mark.parametrize("domain", ["general", "device"])
def test_the_demos_tokenizer_fills_both_levels(domain: Domain) -> None:
    check_levels(demo_tokenizer(), domain)


@pytest.mark.parametrize("name", ["phi-3-mini", "phi-3-medium"])
def test_published_tokenizers_fill_both_levels(name: str) -> None:
    check_levels(published_tokenizer(name), "general")
    check_levels(published_tokenizer(name), "device")


def check_levels(file: Path, domain: Domain) -> None:
    """A gate needs 2,048 tokens of 16 passages, of which the first of each are not counted."""
    tokenizer = Tokenizer.from_file(str(file))

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    full = evaluation_passages(encode, as_phi_3, "full", context=4096, domain=domain)
    assert len(full) >= 16
    assert {len(passage.ids) for passage in full} == {160}
    assert sum(len(passage.ids[16:]) for passage in full) >= (2560 if domain == "general" else 2048)
    quick = evaluation_passages(encode, as_phi_3, "quick", context=4096, domain=domain)
    assert [len(passage.ids) for passage in quick] == [64] * 8


def test_device_commands_are_whole_conversations() -> None:
    for passage in passages(as_phi_3, "device"):
        turns = passage.text.split("<|end|>\n")
        assert turns.pop() == ""
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            assert question.startswith("<|user|>\n")
            assert answer.startswith("<|assistant|>\n")
