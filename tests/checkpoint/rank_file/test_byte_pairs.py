"""A `tokenizer.json` out of ranks encodes every text as tiktoken does with the ranks themselves."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

from edgephi.checkpoint.rank_file.byte_pairs import merges, write_tokenizer
from edgephi.checkpoint.rank_file.phi_3_small import PATTERN
from tests.checkpoint.rank_file.rank_files import learned_tokens, ranks_of, write_ranks
from tests.property_profile import examples
from tests.tokenizer_texts import HARD, OTHER_SPACES, SPACES, WORDS, random_texts, real_texts, texts

tiktoken = pytest.importorskip("tiktoken")

SPECIAL = ("<|end|>", "<|user|>", "<|endoftext|>")
BYTES = [bytes([byte]) for byte in range(256)]


def special_ids(tokens: Sequence[bytes]) -> dict[str, int]:
    return {text: len(tokens) + place for place, text in enumerate(SPECIAL)}


def ours(folder: Path, tokens: Sequence[bytes]) -> Tokenizer:
    write_tokenizer(folder / "tokenizer.json", tokens, special_ids(tokens), PATTERN)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def theirs(tokens: Sequence[bytes]) -> Any:
    return tiktoken.Encoding(
        "ranks", pat_str=PATTERN, mergeable_ranks=ranks_of(tokens), special_tokens=special_ids(tokens)
    )


@pytest.fixture(scope="module")
def learned() -> list[bytes]:
    return learned_tokens(3000)


class TestLearnedRanks:
    @pytest.fixture(scope="class")
    @staticmethod
    def tokenizer(learned: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
        return ours(tmp_path_factory.mktemp("ranks"), learned)

    @pytest.fixture(scope="class")
    @staticmethod
    def encoding(learned: list[bytes]) -> Any:
        return theirs(learned)

    def test_each_token_has_its_two_parts(self, learned: list[bytes]) -> None:
        assert [left + right for left, right in merges(learned)] == learned[256:]

    def test_real_and_hard_texts(self, tokenizer: Tokenizer, encoding: Any) -> None:
        different = [
            text
            for text in [*real_texts(), *random_texts(1500)]
            if tokenizer.encode(text).ids != encoding.encode(text, allowed_special="all")
        ]
        assert different == []

    @given(texts(HARD, SPACES, OTHER_SPACES, SPECIAL, WORDS))
    @settings(max_examples=examples(300), deadline=None)
    def test_any_text(self, tokenizer: Tokenizer, encoding: Any, text: str) -> None:
        ids = tokenizer.encode(text).ids
        assert ids == encoding.encode(text, allowed_special="all")
        assert tokenizer.decode(ids, skip_special_tokens=False) == text

    def test_the_converter_of_transformers_agrees(
        self, learned: list[bytes], tokenizer: Tokenizer, tmp_path: Path
    ) -> None:
        file = write_ranks(tmp_path / "learned.tiktoken", learned)
        converted = TikTokenConverter(str(file), extra_special_tokens=list(SPECIAL)).converted()
        assert [
            text for text in real_texts() if converted.encode(text).ids != tokenizer.encode(text).ids
        ] == []

    def test_the_file_is_always_the_same_and_whole(self, learned: list[bytes], tmp_path: Path) -> None:
        for name in ("one", "other"):
            write_tokenizer(tmp_path / name, learned, special_ids(learned), PATTERN)
        content = (tmp_path / "one").read_bytes()
        assert content == (tmp_path / "other").read_bytes()
        model = json.loads(content)["model"]
        assert len(model["vocab"]) == 3000
        assert len(model["merges"]) == 3000 - 256


def _joined(tokens: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    parts = st.sampled_from([*tokens, *(bytes([byte]) for byte in b"ab 1\n")])
    return st.lists(parts, min_size=2, max_size=3).map(b"".join)


@st.composite
def any_ranks(draw: st.DrawFn) -> list[bytes]:
    """Ranks that nobody learned: tokens that joining never comes to, parts that rank behind their whole."""
    more: list[bytes] = []
    for _ in range(draw(st.integers(1, 12))):
        token = draw(_joined(more))
        if token not in more:
            more.append(token)
    return draw(st.permutations([*BYTES[:100], *more])) + BYTES[100:]


@given(any_ranks(), st.lists(st.text("aab 1\n", max_size=14), min_size=1, max_size=4))
@settings(max_examples=examples(150), deadline=None)
def test_ranks_that_nobody_learned(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[bytes], texts: list[str]
) -> None:
    """Each token has one pair in our file, so that neighbours are joined in tiktoken's order here too."""
    tokenizer, encoding = ours(tmp_path_factory.getbasetemp(), tokens), theirs(tokens)
    for text in texts:
        assert tokenizer.encode(text).ids == encoding.encode(text), base64.b64encode(text.encode())
