"""Raw texts, tokens and bytes, with a tokenizer of each kind."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edgephi.errors import BadInputError, PastContextError
from edgephi.runtime.text.prompt_bound import PromptBound
from edgephi.runtime.text.raw_text import RawTexts
from tests.tokenizer_texts import KINDS, tokenizer_of_kind

TEXTS = ["turn on the light", " two  spaces", "a\nb", "öffne die Tür — 你好 🙂", "<|endoftext|>behind it"]


def raw_texts(file: Path, context: int = 512) -> RawTexts:
    library = Tokenizer.from_file(str(file))
    return RawTexts(
        file, lambda text: library.encode(text, add_special_tokens=False).ids, PromptBound(file, context)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_together_the_bytes_of_a_texts_tokens_are_the_text(kind: str, tmp_path: Path) -> None:
    texts = raw_texts(tokenizer_of_kind(tmp_path, kind))
    for text in TEXTS:
        assert b"".join(texts.spell(texts.encode(text))).decode() == text


def test_tokens_are_taken_as_they_are(tmp_path: Path) -> None:
    texts = raw_texts(tokenizer_of_kind(tmp_path, "digits one by one"))
    tokens = texts.encode("7 lights")
    assert texts.encode(tokens) == texts.encode(tuple(tokens)) == tokens


@pytest.mark.parametrize("tokens", [[-1], [0, 10**6], [1 << 70]])
def test_tokens_that_the_model_does_not_have_are_refused(tokens: list[int], tmp_path: Path) -> None:
    texts = raw_texts(tokenizer_of_kind(tmp_path, "digits one by one"))
    with pytest.raises(BadInputError, match=f"vocabulary, found {tokens[-1]}"):
        texts.encode(tokens)


@pytest.mark.parametrize("text", ["", []])
def test_nothing_is_no_text(text: str | list[int], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="found an empty one"):
        raw_texts(tokenizer_of_kind(tmp_path, "digits one by one")).encode(text)


def test_a_text_that_cannot_fit_is_not_encoded(tmp_path: Path) -> None:
    with pytest.raises(PastContextError):
        raw_texts(tokenizer_of_kind(tmp_path, "cl100k"), context=8).encode("light" * 10_000)
