"""OpenVINO's tokenizer and detokenizer graphs against the `tokenizers` library on the same file."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings

from edgephi.errors import BadCheckpointError, NotSupportedError
from edgephi.export.openvino.tokenizer import tokenizer_files
from edgephi.reference.evaluation_text import passages
from tests.export.openvino.oracle import openvino_genai
from tests.phi_3_chat import as_phi_3
from tests.property_profile import examples
from tests.tiny_checkpoint import TinyShape, tiny_tokenizer
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

KINDS = ["demo", "tiny", "phi-3-mini", "phi-3-medium", "phi-3-vision", "phi-4", "phi-4-mini", "no-strip"]
KINDS += ["metaspace-first", "metaspace-always"]
TEMPLATE = "{{ messages[0]['content'] }}"


def with_metaspace(folder: Path, scheme: str) -> Path:
    """The demo's tokenizer as transformers 5 saves such a one: a pre-tokenizer in the normalizer's place."""
    data = json.loads(demo_tokenizer().read_text())
    data["normalizer"] = None
    data["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": scheme,
        "split": False,
    }
    file = folder / f"{scheme}.json"
    file.write_text(json.dumps(data))
    return file


def tokenizer_of(kind: str, folder: Path) -> Path:
    if kind == "demo":
        return demo_tokenizer()
    if kind == "tiny":
        (folder / "tiny.json").write_text(json.dumps(tiny_tokenizer(TinyShape())))
        return folder / "tiny.json"
    if kind == "no-strip":
        return with_flags(demo_tokenizer(), folder, dict.fromkeys(SPECIAL, False))
    if kind.startswith("metaspace"):
        return with_metaspace(folder, kind.removeprefix("metaspace-"))
    if kind in ("phi-4", "phi-4-mini"):
        return byte_level_tokenizer(folder, kind)
    return published_tokenizer(kind)


def opened(file: Path, folder: Path, **options: Any) -> Any:
    """openvino-genai's tokenizer on what we make of `file`."""
    options = {"pad_token_id": 0, "stop_token_ids": (0,), "bos_token_id": 1, **options}
    folder.mkdir()
    for name, content in tokenizer_files(file, chat_template=TEMPLATE, **options).items():
        (folder / name).write_bytes(content)
    return openvino_genai.Tokenizer(str(folder))


class Pair:
    """The same tokenizer twice."""

    def __init__(self, file: Path, folder: Path) -> None:
        self.ours = opened(file, folder / "graphs")
        self.oracle = tokenizers.Tokenizer.from_file(str(file))

    def encoded(self, text: str, *, special: bool = False) -> list[int]:
        ids = self.ours.encode(text, add_special_tokens=special).input_ids.data
        return [int(id_) for id_ in ids.reshape(-1)]


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("tokenizer")
    return Pair(tokenizer_of(request.param, folder), folder)


@settings(max_examples=examples(50))
@given(text=texts(WORDS, HARD, SPACES, OTHER_SPACES, SPECIAL))
def test_hard_texts(pair: Pair, text: str) -> None:
    expected = pair.oracle.encode(text, add_special_tokens=False).ids
    assert pair.encoded(text) == expected
    # What comes back is what the library says, too; a broken byte is a stand-in in both.
    if expected:
        for skip in (True, False):
            found = pair.ours.decode(expected, skip_special_tokens=skip)
            assert found == pair.oracle.decode(expected, skip_special_tokens=skip)


def test_every_token_alone(pair: Pair) -> None:
    ids = [[id_] for id_ in range(pair.oracle.get_vocab_size())]
    found = pair.ours.decode(ids, skip_special_tokens=False)
    assert found == pair.oracle.decode_batch(ids, skip_special_tokens=False)


def test_a_long_text(pair: Pair) -> None:
    text = "\n".join(passage.text for passage in passages(as_phi_3)) * 2
    assert pair.encoded(text) == pair.oracle.encode(text, add_special_tokens=False).ids


def test_the_templates_tokens_when_they_are_asked_for(pair: Pair) -> None:
    text = "turn on the kitchen light"
    assert pair.encoded(text, special=True) == pair.oracle.encode(text, add_special_tokens=True).ids


def test_ids_of_the_padded_vocabulary_are_no_text(pair: Pair) -> None:
    (id_,) = pair.oracle.encode("<|endoftext|>", add_special_tokens=False).ids
    assert pair.ours.decode([pair.oracle.get_vocab_size() + 20, id_, 10**6]) == ""


def test_several_texts_are_padded_on_the_left(tmp_path: Path) -> None:
    tokenizer = opened(demo_tokenizer(), tmp_path / "graphs", pad_token_id=5)
    found = tokenizer.encode(["light", "turn on the kitchen light"], add_special_tokens=False)
    ids, mask = found.input_ids.data, found.attention_mask.data
    short = tokenizer.encode("light", add_special_tokens=False).input_ids.data[0]
    padding = ids.shape[1] - len(short)
    assert padding > 0
    assert list(ids[0]) == [5] * padding + list(short)
    assert list(mask[0]) == [0] * padding + [1] * len(short)
    assert mask[1].all()


def test_the_facts_that_the_engine_asks_for(tmp_path: Path) -> None:
    tokenizer = opened(
        demo_tokenizer(), tmp_path / "graphs", pad_token_id=5, stop_token_ids=(743, 736), bos_token_id=2
    )
    assert tokenizer.get_pad_token_id() == 5
    assert tokenizer.get_eos_token_id() == 743
    assert tokenizer.get_bos_token_id() == 2
    assert tokenizer.chat_template == TEMPLATE


def changed(folder: Path, change: Any) -> Path:
    data = json.loads(demo_tokenizer().read_text())
    change(data)
    file = folder / "changed.json"
    file.write_text(json.dumps(data))
    return file


def made(file: Path) -> dict[str, bytes]:
    return tokenizer_files(
        file, chat_template=TEMPLATE, pad_token_id=0, stop_token_ids=(0,), bos_token_id=None
    )


def test_merges_as_newer_files_write_them(tmp_path: Path) -> None:
    def split_up(data: Any) -> None:
        merges = data["model"]["merges"]
        assert merges
        data["model"]["merges"] = [
            merge.split(" ") if isinstance(merge, str) else " ".join(merge) for merge in merges
        ]

    assert made(changed(tmp_path, split_up)) == made(demo_tokenizer())


def model(**options: Any) -> Any:
    return lambda data: data["model"].update(options)


def token(**options: Any) -> Any:
    return lambda data: data["added_tokens"][-1].update(options)


def part(name: str, **content: Any) -> Any:
    return lambda data: data.update({name: content})


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (model(type="Unigram"), "model: .* found Unigram"),
        (model(end_of_word_suffix="</w>"), "end_of_word_suffix: .* found '</w>'"),
        (model(byte_fallback=False), "neither byte_fallback"),
        (model(ignore_merges=True), "ignore_merges, and no merge makes '"),
        (token(single_word=True), r"'<\|user\|>': .* single_word"),
        (token(normalized=True), r"'<\|user\|>': .* normalized"),
        (token(content="<|user|><|end|>"), r"'<\|end\|>': .* part of"),
        (part("normalizer", type="Lowercase"), "normalizer: .* Lowercase"),
        (part("pre_tokenizer", type="Whitespace"), "pre_tokenizer: .*Whitespace"),
        (part("post_processor", type="BertProcessing"), "post_processor: .* BertProcessing"),
        (part("decoder", type="WordPiece"), "decoder: .* WordPiece"),
    ],
)
def test_what_cannot_be_expressed_is_refused(tmp_path: Path, change: Any, found: str) -> None:
    with pytest.raises(NotSupportedError, match=found):
        made(changed(tmp_path, change))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BadCheckpointError, match="expected a tokenizer"):
        made(tmp_path / "tokenizer.json")
