"""The tokenizer of a checkpoint: stop tokens, chat format, and files that do not fit."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from edgephi.chat import formats as phi
from edgephi.checkpoint.config import load_architecture
from edgephi.checkpoint.tokenizer import encode, read_tokenizer
from edgephi.errors import BadCheckpointError
from tests.tiny_checkpoint import write_tiny_checkpoint


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    file = folder / "tokenizer.json"
    table = json.loads(file.read_text())
    change(table)
    file.write_text(json.dumps(table))
    return folder


def rejected(folder: Path) -> str:
    with pytest.raises(BadCheckpointError) as caught:
        read_tokenizer(folder, load_architecture(folder))
    assert "\n" not in caught.value.message
    return caught.value.message


class TestFacts:
    def test_of_a_tiny_phi_3(self, tiny: Path) -> None:
        found = read_tokenizer(tiny, load_architecture(tiny))
        assert found.chat.built_in is phi.PHI_3_CHAT
        names = ("<|endoftext|>", "<|assistant|>", "<|end|>")
        assert found.stop_token_ids == tuple(found.special_tokens[name] for name in names)
        assert tuple(found.files) == ("tokenizer.json", "tokenizer_config.json")
        assert found.vocabulary_size == 1 + max(found.special_tokens.values()) < 512

    def test_of_a_tiny_phi_4(self, tmp_path: Path) -> None:
        folder = write_tiny_checkpoint(tmp_path / "x", "phi-4", layers=1, hidden=64, ffn=64)
        found = read_tokenizer(folder, load_architecture(folder))
        assert found.chat.built_in is phi.PHI_4_CHAT
        assert found.stop_token_ids == (
            found.special_tokens["<|endoftext|>"],
            found.special_tokens["<|im_end|>"],
        )

    def test_stop_tokens_that_no_config_names(self, tiny: Path) -> None:
        (tiny / "generation_config.json").unlink()
        found = read_tokenizer(tiny, replace(load_architecture(tiny), eos_token_ids=()))
        assert found.special_tokens["<|end|>"] in found.stop_token_ids

    def test_stop_tokens_that_only_the_config_names(self, tiny: Path) -> None:
        found = read_tokenizer(tiny, replace(load_architecture(tiny), eos_token_ids=(2,)))
        assert found.stop_token_ids[0] == 2
        assert len(found.stop_token_ids) == 4

    @pytest.mark.parametrize("name", ["phi-3-mini", "phi-3-medium"])
    def test_of_the_published_models(self, shared: Path, name: str) -> None:
        architecture = load_architecture(shared / "configs" / f"{name}-4k")
        found = read_tokenizer(shared / "tokenizers" / name, architecture)
        assert found.stop_token_ids == (32000, 32001, 32007)
        assert found.vocabulary_size == 32011
        assert found.chat.built_in is phi.PHI_3_CHAT


class TestEncode:
    def test_adds_nothing(self, tiny: Path) -> None:
        ids = encode(tiny, "the light <|end|>")
        assert ids[-1] == read_tokenizer(tiny, load_architecture(tiny)).special_tokens["<|end|>"]
        assert 1 not in ids

    def test_text_is_never_cut(self, tiny: Path) -> None:
        truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
        changed(tiny, lambda table: table.update(truncation=truncation))
        assert len(encode(tiny, "the light " * 50)) > 50

    def test_published(self, shared: Path) -> None:
        # The vision model's tokenizer would put <s> in front if it was asked to.
        assert encode(shared / "tokenizers" / "phi-3-vision", "Hello<|end|>") == [15043, 32007]


class TestBadTokenizer:
    def test_missing(self, tiny: Path) -> None:
        (tiny / "tokenizer.json").unlink()
        assert "tokenizer.json: expected the tokenizer, found no such file" in rejected(tiny)

    @pytest.mark.parametrize("text", ["", "{}", "[1", '{"model": {"type": "Unheard"}}'])
    def test_broken(self, tiny: Path, text: str) -> None:
        (tiny / "tokenizer.json").write_text(text)
        assert "tokenizer.json: expected a tokenizer, found" in rejected(tiny)

    def test_of_a_bigger_model(self, tiny: Path) -> None:
        changed(tiny, lambda table: table["model"]["vocab"].update(stranger=512))
        assert "expected ids below vocab_size = 512, found ids up to 512" in rejected(tiny)

    def test_without_chat_tokens(self, tiny: Path) -> None:
        changed(tiny, lambda table: table["added_tokens"].pop())  # <|user|>
        assert "expected a chat template, or the chat tokens of the Phi-3 family" in rejected(tiny)

    def test_that_does_not_know_the_end_of_text(self, tiny: Path) -> None:
        generation = json.loads((tiny / "generation_config.json").read_text())
        (tiny / "generation_config.json").write_text(json.dumps({**generation, "eos_token_id": [511]}))
        assert "expected a token for eos_token_id 511" in rejected(tiny)


class TestOlderForm:
    """A checkpoint whose tokenizer is a SentencePiece model alone: the hint's command makes it whole."""

    @pytest.fixture
    @staticmethod
    def older(tiny: Path) -> Path:
        sentencepiece = pytest.importorskip("sentencepiece")
        (tiny / "tokenizer.json").unlink()
        words = [f"{first} {second} {first}{second}" for first in "abcdefgh" for second in "ijklmnop"]
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(words),
            model_prefix=str(tiny / "tokenizer"),
            model_type="bpe",
            vocab_size=300,
            byte_fallback=True,
            minloglevel=2,
        )
        return tiny

    def test_it_is_named(self, older: Path) -> None:
        assert "expected the tokenizer, found tokenizer.model only" in rejected(older)

    def test_the_command_of_the_hint_converts_it(self, older: Path) -> None:
        with pytest.raises(BadCheckpointError) as caught:
            read_tokenizer(older, load_architecture(older))
        command = (caught.value.hint or "").split("`")[1]
        assert command.startswith("python -c ")
        done = subprocess.run(
            ["sh", "-c", command.replace("python", shlex.quote(sys.executable), 1)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert encode(older, "ai bj")
        assert Tokenizer.from_file(str(older / "tokenizer.json")).get_vocab_size() >= 300
