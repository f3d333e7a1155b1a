"""The evaluation text: fixed, wide, and cut the same way with every tokenizer."""

import hashlib

import pytest

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

# What the passages of each version hash to. A changed passage needs a new version and a new line here.
HASHES = {
    "edgephi-eval-2": "",
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
