"""What is read out of `tokenizer.json`, against the library that wrote it and one that reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import llguidance
import pytest
from hypothesis import assume, given, settings
from tokenizers import Tokenizer

from edgephi.errors import BadBundleError
from edgephi.runtime.text.tokenizer_file import added_tokens, token_bytes
from tests.property_profile import examples
from tests.tokenizer_texts import (
    HARD,
    OTHER_SPACES,
    SPACES,
    SPECIAL,
    WORDS,
    byte_level_tokenizer,
    demo_tokenizer,
    published_tokenizer,
    texts,
)

KINDS = ["demo", "phi-3-mini", "phi-4", "phi-4-mini"]


def tokenizer_of(kind: str, folder: Path) -> Path:
    """A tokenizer's file of each kind that the family has."""
    if kind == "demo":
        return demo_tokenizer()
    return byte_level_tokenizer(folder, kind) if kind.startswith("phi-4") else published_tokenizer(kind)


@pytest.fixture(scope="module", params=KINDS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_of(request.param, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def read(file: Path) -> tuple[dict[int, bytes], Any]:
    """The bytes of each token, and the library's tokenizer."""
    return token_bytes(file), Tokenizer.from_file(str(file))


class TestTokenBytes:
    @settings(max_examples=examples(100))
    @given(text=texts(WORDS, HARD, SPACES, OTHER_SPACES))
    def test_together_they_are_the_text(self, read: tuple[dict[int, bytes], Any], text: str) -> None:
        spelled, tokenizer = read
        # Special tokens may swallow white space, and SentencePiece takes its own sign for a space.
        assume("▁" not in text and not any(token in text for token in SPECIAL))
        found = b"".join(spelled[id_] for id_ in tokenizer.encode(text, add_special_tokens=False).ids)
        begins = " " if tokenizer.normalizer is not None and text else ""
        assert found.decode() == begins + text

    def test_of_every_token_as_llguidance_reads_them(self, file: Path) -> None:
        oracle = llguidance.LLTokenizer(file.read_text())
        spelled = token_bytes(file)
        assert len(spelled) == oracle.vocab_size
        special = set(added_tokens(file).values())
        for id_, data in spelled.items():
            if id_ not in special and b"\xff" not in data:  # its own mark of special tokens
                assert oracle.decode_bytes([id_]) == data, id_

    def test_special_tokens_are_their_names(self, file: Path) -> None:
        spelled = token_bytes(file)
        for text, id_ in added_tokens(file).items():
            assert spelled[id_] == text.encode()


class TestAddedTokens:
    def test_are_those_of_the_library(self, file: Path) -> None:
        library = Tokenizer.from_file(str(file)).get_added_tokens_decoder()
        assert added_tokens(file) == {token.content: id_ for id_, token in library.items()}

    def test_behind_a_long_vocabulary(self, tmp_path: Path) -> None:
        content = json.loads(demo_tokenizer().read_text())
        expected = added_tokens(demo_tokenizer())
        content["model"]["vocab"] |= {f"filling {i} " + "x" * 200: 1000 + i for i in range(6000)}
        content["model"]["vocab"] = {"added_tokens": 5000, **content["model"]["vocab"]}
        moved = {"model": content.pop("model"), **content}
        (tmp_path / "tokenizer.json").write_text(json.dumps(moved, indent=1))
        assert added_tokens(tmp_path / "tokenizer.json") == expected


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{",
        "[]",
        '{"added_tokens": [1]}',
        '{"added_tokens": [{"content": "", "id": 1}]}',
        '{"added_tokens": [{"content": "a", "id": "b"}]}',
        "\udcff",
    ],
)
def test_what_is_no_tokenizer(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_text(content, errors="surrogateescape")
    with pytest.raises(BadBundleError, match=re.escape(f"{file}: expected a tokenizer, found ")):
        added_tokens(file)
    with pytest.raises(BadBundleError, match=re.escape(f"{file}: expected a tokenizer, found ")):
        token_bytes(file)
