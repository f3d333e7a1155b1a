"""The tokenizer inside a GGUF file: llama.cpp's own reads it, and gives the checkpoint's token ids.

The oracle is the `tokenizers` library on the checkpoint's `tokenizer.json`. What llama.cpp does otherwise is
listed in `TestDifferences`; our runtime does not use its tokenizer.
"""

import ctypes
import json
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from jinja2 import Environment

from edgephi.build.tensor_plans import plan_tensors
from edgephi.chat.formats import PHI_3_CHAT, PHI_4_CHAT, PHI_4_MINI_CHAT, ChatFormat
from edgephi.checkpoint.checkpoint import open_checkpoint
from edgephi.declared.target import read_target
from edgephi.errors import NotSupportedError
from edgephi.export.gguf import exporter
from edgephi.export.gguf.tokenizer import chat_template, read_gguf_tokenizer, suited_name
from edgephi.runtime.engines.llama_cpp.library import collected_errors, load_library, token_array
from tests.portable import portable
from tests.property_profile import examples
from tests.tiny_checkpoint import write_tiny_checkpoint
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
    with_flags,
)

tokenizers = pytest.importorskip("tokenizers")

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Turn on the light\nin the hall, please."},
    {"role": "assistant", "content": "Done."},
    {"role": "user", "content": "And off? ünïcödé"},
]
ALL_STRIP = dict.fromkeys((*SPECIAL, *(f"<|placeholder{i}|>" for i in range(1, 7)), "<|system|>"), True) | {
    "<unk>": False,
    "<s>": False,
    "<|endoftext|>": False,
}
NONE_STRIPS = dict.fromkeys(ALL_STRIP, False)
SOME_STRIP = {**ALL_STRIP, "<|system|>": False, "<|user|>": False, "<|end|>": False}  # as Phi-3-vision's


class Converted:
    """A checkpoint of one thin layer with some tokenizer, its GGUF file, and both tokenizers."""

    def __init__(self, folder: Path, tokenizer: Path, *, vocabulary_size: int | None = None) -> None:
        data = json.loads(tokenizer.read_text(encoding="utf-8"))
        ids = {token["content"]: token["id"] for token in data["added_tokens"]}
        end = ids["<|endoftext|>"]
        used = max([*data["model"]["vocab"].values(), *ids.values()]) + 1
        source = write_tiny_checkpoint(
            folder / "checkpoint",
            vocab=vocabulary_size or used + 5,  # as published ones are padded
            hidden=32,
            heads=1,
            kv_heads=1,
            ffn=32,
            layers=1,
        )
        shutil.copyfile(tokenizer, source / "tokenizer.json")
        for name in ("config.json", "generation_config.json"):
            config = json.loads((source / name).read_text())
            config.update(bos_token_id=ids.get("<s>", end), eos_token_id=end, pad_token_id=end)
            (source / name).write_text(json.dumps(config))
        self.used = used
        self.file = folder / "model.gguf"
        self.checkpoint = open_checkpoint(source, id="makers/phi-3-of-mine", revision="local")
        plans = plan_tensors(self.checkpoint.architecture, portable(group_size=32))
        exporter.write_artifact(folder, self.checkpoint, plans, read_target("gguf"), 64)
        self.oracle = tokenizers.Tokenizer.from_file(str(tokenizer))
        self.ids = ids

    @cached_property
    def model(self) -> int:
        """llama.cpp's, loaded from the file."""
        library = load_library()
        with collected_errors(library) as errors:
            parameters = library.llama_model_default_params()
            model = library.llama_model_load_from_file(str(self.file).encode(), parameters)
        assert model, errors
        return int(model)

    @cached_property
    def vocabulary(self) -> int:
        return int(load_library().llama_model_get_vocab(self.model))

    @property
    def chat_template(self) -> str:
        call = load_library().llama_model_chat_template
        call.argtypes, call.restype = [ctypes.c_void_p, ctypes.c_char_p], ctypes.c_char_p
        return str(call(self.model, None).decode())

    def expected(self, text: str) -> list[int]:
        ids: list[int] = self.oracle.encode(text, add_special_tokens=False).ids
        return ids

    def found(self, text: str) -> list[int]:
        data = text.encode()
        ids = token_array([0] * (len(data) + 16))
        tokenize = load_library().llama_tokenize
        tokenize.argtypes = [
            *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.POINTER(ctypes.c_int32)),
            *(ctypes.c_int32, ctypes.c_bool, ctypes.c_bool),
        ]
        count = tokenize(self.vocabulary, data, len(data), ids, len(ids), True, True)
        assert count >= 0
        return ids[:count]

    def piece(self, token: int) -> bytes:
        """The bytes that llama.cpp prints for a token."""
        to_piece = load_library().llama_token_to_piece
        to_piece.argtypes = [
            *(ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p),
            *(ctypes.c_int32, ctypes.c_int32, ctypes.c_bool),
        ]
        buffer = ctypes.create_string_buffer(64)
        size = to_piece(self.vocabulary, token, buffer, len(buffer), 0, False)
        return buffer.raw[:size]

    def ask(self, function: str, *arguments: int) -> int:
        """Call a function of llama.cpp's about the vocabulary, which gives a number or a truth value."""
        call = getattr(load_library(), function)
        call.argtypes = [ctypes.c_void_p, *(ctypes.c_int32 for _ in arguments)]
        call.restype = ctypes.c_bool if "_is_" in function or "_get_add_" in function else ctypes.c_int32
        return int(call(self.vocabulary, *arguments))


def make(kind: str, folder: Path) -> Path:
    """The tokenizer of a kind."""
    if kind == "demo":
        return demo_tokenizer()
    if kind == "tiny":
        return write_tiny_checkpoint(folder / "tiny") / "tokenizer.json"
    if kind in ("phi-4", "phi-4-mini"):
        return byte_level_tokenizer(folder, kind)
    return published_tokenizer(kind)


Make = Callable[[str], Converted]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Each kind, converted once."""
    made: dict[str, Converted] = {}

    def get(kind: str) -> Converted:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[kind] = Converted(folder, make(kind, folder))
        return made[kind]

    return get


@pytest.fixture(scope="module", params=["demo", "tiny", "phi-3-mini", "phi-3-medium"])
def phi_3(request: pytest.FixtureRequest, converted: Make) -> Converted:
    """Phi-3's kind, of which a file can say all."""
    return converted(request.param)


@pytest.fixture(scope="module", params=["demo", "tiny", "phi-3-mini", "phi-3-medium", "phi-4"])
def exact(request: pytest.FixtureRequest, converted: Make) -> Converted:
    """Those whose plain text llama.cpp knows everything about."""
    return converted(request.param)


@pytest.fixture(scope="module")
def phi_4_mini(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder = tmp_path_factory.mktemp("phi-4-mini")
    return Converted(folder, byte_level_tokenizer(folder, "phi-4-mini"))


class TestTokens:
    @settings(max_examples=examples(300))
    @given(text=texts(WORDS, HARD, SPACES, OTHER_SPACES))
    def test_hard_texts(self, exact: Converted, text: str) -> None:
        assert exact.found(text) == exact.expected(text)

    def test_runs_of_one_letter_and_of_spaces(self, exact: Converted) -> None:
        for unit in ("a", "ab", "aba", " ", "  a", "=", "▁", "lo", "\n", "é"):
            for count in range(1, 40):
                assert exact.found(unit * count) == exact.expected(unit * count)

    @settings(max_examples=examples(200))
    @given(text=texts(WORDS, SPACES, SPECIAL).filter(str.isascii))
    def test_special_tokens_among_them(self, phi_3: Converted, text: str) -> None:
        assert phi_3.found(text) == phi_3.expected(text)

    @settings(max_examples=examples(200))
    @given(text=texts(WORDS, SPACES).filter(str.isascii))
    def test_phi_4_mini_on_ascii(self, phi_4_mini: Converted, text: str) -> None:
        assert phi_4_mini.found(text) == phi_4_mini.expected(text)

    @pytest.mark.parametrize("flags", [ALL_STRIP, NONE_STRIPS, SOME_STRIP], ids=["all", "none", "some"])
    def test_a_conversation_by_the_files_own_template(self, tmp_path: Path, flags: dict[str, bool]) -> None:
        converted = Converted(tmp_path, with_flags(demo_tokenizer(), tmp_path, flags))
        prompts = [
            Environment(autoescape=False)
            .from_string(template)
            .render(messages=MESSAGES, add_generation_prompt=True)
            for template in (converted.chat_template, PHI_3_CHAT.template)
        ]
        assert converted.found(prompts[0]) == converted.expected(prompts[1])

    @pytest.mark.parametrize(
        ("kind", "vocabulary_size", "chat"),
        [("phi-4", None, PHI_4_CHAT), ("phi-4-mini", 200_064, PHI_4_MINI_CHAT)],
    )
    def test_a_conversation_of_phi_4(
        self, tmp_path: Path, kind: str, vocabulary_size: int | None, chat: ChatFormat
    ) -> None:
        file = byte_level_tokenizer(tmp_path, kind)
        converted = Converted(tmp_path, file, vocabulary_size=vocabulary_size)
        assert converted.chat_template == chat.template
        prompt = (
            Environment(autoescape=False)
            .from_string(chat.template)
            .render(messages=MESSAGES, add_generation_prompt=True)
        )
        assert converted.found(prompt) == converted.expected(prompt)


class TestDifferences:
    """What no GGUF file can say, so that llama.cpp's own tools make other tokens of it."""

    def test_phi_4s_special_tokens_keep_the_white_space_around_them(self, tmp_path: Path) -> None:
        converted = Converted(tmp_path, byte_level_tokenizer(tmp_path, "phi-4"))
        assert converted.found("<|im_end|>a") == converted.expected("<|im_end|>a")
        assert converted.found("<|im_end|> a") != converted.expected("<|im_end|> a")

    def test_phi_4_minis_words_break_at_combining_marks(self, phi_4_mini: Converted) -> None:
        assert phi_4_mini.found("गाँव") != phi_4_mini.expected("गाँव")

    def test_only_ascii_white_space_is_stripped(self, tmp_path: Path) -> None:
        converted = Converted(tmp_path, demo_tokenizer())
        assert converted.found("<|user|>\n a") == converted.expected("<|user|>\n a")
        assert converted.found("<|user|>\u3000a") != converted.expected("<|user|>\u3000a")


class TestSpecialTokens:
    def test_every_stop_token_ends_generation(self, exact: Converted) -> None:
        for token in exact.checkpoint.tokenizer.stop_token_ids:
            assert exact.ask("llama_vocab_is_eog", token)
        ending = {id_ for id_ in range(exact.used) if exact.ask("llama_vocab_is_eog", id_)}
        # llama.cpp ends at this one whatever a file says.
        assert ending - {exact.ids.get("</s>")} == set(exact.checkpoint.tokenizer.stop_token_ids)

    def test_beginning_end_and_padding(self, exact: Converted) -> None:
        architecture = exact.checkpoint.architecture
        assert exact.ask("llama_vocab_bos") == architecture.bos_token_id
        assert exact.ask("llama_vocab_eos") == exact.ids["<|endoftext|>"]
        assert exact.ask("llama_vocab_eot") in (exact.ids.get("<|end|>"), exact.ids.get("<|im_end|>"))
        assert exact.ask("llama_vocab_pad") == architecture.pad_token_id
        assert not exact.ask("llama_vocab_get_add_bos")
        assert not exact.ask("llama_vocab_get_add_eos")

    def test_added_tokens_are_special_and_plain_ones_are_not(self, exact: Converted) -> None:
        for text, id_ in exact.ids.items():
            assert exact.found(f"a{text}")[-1] == id_
        plain = exact.expected("b")[-1]
        assert not exact.ask("llama_vocab_is_control", plain)
        assert exact.ask("llama_vocab_is_control", exact.ids["<|endoftext|>"])

    def test_the_embeddings_padding_has_tokens_that_no_text_makes(self, exact: Converted) -> None:
        size = exact.checkpoint.architecture.vocabulary_size
        assert load_library().llama_vocab_n_tokens(exact.vocabulary) == size == exact.used + 5
        found = set(exact.found(" ".join(f"[PAD{id_}]" for id_ in range(exact.used, size))))
        assert not found & set(range(exact.used, size))

    def test_pieces_are_their_text(self, exact: Converted) -> None:
        text = "the light, ünïcödé 中文 😀"
        assert b"".join(map(exact.piece, exact.found(text))).decode().removeprefix(" ") == text

    def test_a_beginning_that_the_file_asks_for(self, tmp_path: Path) -> None:
        data = json.loads(demo_tokenizer().read_text())
        data["post_processor"]["single"].insert(0, {"SpecialToken": {"id": "<s>", "type_id": 0}})
        data["post_processor"]["special_tokens"] = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
        (tmp_path / "bos.json").write_text(json.dumps(data))
        converted = Converted(tmp_path, tmp_path / "bos.json")
        assert converted.ask("llama_vocab_get_add_bos")
        assert converted.found("light") == converted.oracle.encode("light").ids


class TestNames:
    """llama.cpp decides by the model's name which tokens strip white space."""

    @pytest.mark.parametrize(
        ("flags", "name", "expected"),
        [
            (ALL_STRIP, "Phi-3-mini-4k-instruct", "Phi-3-mini-4k-instruct"),
            (ALL_STRIP, "demo", "demo (Phi-3)"),
            (NONE_STRIPS, "Phi-3.5-mini-instruct", "Phi 3.5-mini-instruct"),
            (SOME_STRIP, "my-phi3", "my-phi 3"),
            (NONE_STRIPS, "demo", "demo"),
        ],
    )
    def test_names(self, tmp_path: Path, flags: dict[str, bool], name: str, expected: str) -> None:
        tokenizer = read_gguf_tokenizer(with_flags(demo_tokenizer(), tmp_path, flags), 768)
        assert suited_name(name, tokenizer) == expected

    def test_a_phi_4_that_is_named_after_phi_3_still_loads(self, tmp_path: Path) -> None:
        converted = Converted(tmp_path, byte_level_tokenizer(tmp_path, "phi-4"))
        assert gguf.GGUFReader(converted.file).fields["general.name"].contents() == "phi 3-of-mine"
        assert converted.vocabulary

    def test_phi_4s_formats_have_no_line_breaks_to_mend(self, tmp_path: Path) -> None:
        tokenizer = read_gguf_tokenizer(with_flags(demo_tokenizer(), tmp_path, SOME_STRIP), 768)
        for chat in (PHI_4_CHAT, PHI_4_MINI_CHAT):
            assert chat_template(tokenizer, chat) == chat.template


def altered(folder: Path, kind: str, **changes: Any) -> Path:
    """A tokenizer file with some of its parts replaced."""
    source = demo_tokenizer() if kind == "demo" else byte_level_tokenizer(folder, kind)
    data = json.loads(source.read_text(encoding="utf-8"))
    (folder / "altered.json").write_text(json.dumps({**data, **changes}), encoding="utf-8")
    return folder / "altered.json"


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("demo", {"normalizer": None}, "expected a normaliser that puts ▁"),
        ("demo", {"pre_tokenizer": {"type": "Metaspace"}}, "expected no pre-tokenizer beside byte fallback"),
        ("phi-4", {"normalizer": {"type": "NFC"}}, "expected no normaliser in a byte-level BPE"),
        ("phi-4", {"pre_tokenizer": {"type": "Whitespace"}}, "expected steps that cut a text into words"),
        (
            "phi-4",
            {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}},
            "expected steps that cut a text into words",
        ),
        (
            "phi-4",
            {
                "pre_tokenizer": {
                    "type": "Sequence",
                    "pretokenizers": [
                        {"type": "Digits", "individual_digits": False},
                        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
                    ],
                }
            },
            r"expected patterns of words that llama.cpp knows for GGUF, found \\p",
        ),
        ("demo", {"model": {"type": "Unigram"}}, "expected a BPE model for GGUF, found Unigram"),
        (
            "demo",
            {"added_tokens": [{"id": 9, "content": "new", "normalized": True}]},
            "matched before normalising for GGUF, found new",
        ),
    ],
)
def test_what_llama_cpp_has_no_word_for_is_refused(
    tmp_path: Path, kind: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(NotSupportedError, match=message):
        read_gguf_tokenizer(altered(tmp_path, kind, **changes), 2000)
