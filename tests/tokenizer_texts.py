"""Tokenizers and hard texts for tests of whatever else encodes as the `tokenizers` library does."""

# ruff: noqa: RUF001 - letters that look like others are what makes a text hard

import json
import random
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)

import edgephi.reference
from edgephi.reference.evaluation_text import passages
from edgephi.reference.passages import in_words, shipped_passages
from tests.phi_3_chat import as_phi_3

PUBLISHED = Path(__file__).parents[2] / "shared/tokenizers"
"""Tokenizers of published models, where this machine has them."""

SPLITS = {
    "phi-4": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "phi-4-mini": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
"""The patterns by which the published models cut a text into words."""

KINDS = {
    "SentencePiece, byte fallback": "demo",
    "byte-level, GPT-2": "gpt-2",
    "digits one by one": "digits",
    "cl100k": "phi-4",
    "o200k": "phi-4-mini",
}
"""The kinds of tokenizers in use, and one of each for `tokenizer_of_kind`."""

GPT_2_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PHI_4_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>")
PHI_4_MINI_TOKENS = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

SPECIAL = ("<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "<|im_start|>")
SPACES = (" ", "  ", "\n", "\r\n", "\n\n ", "\t", " \n")
OTHER_SPACES = ("\u3000", "\xa0", "\u2028", "\x85", "\u2009", "\x0b")
HARD = (
    *(
        "'s",
        "'S",
        "'\u017f",
        "'LL",
        "'Ve",
        "'",
        '"',
        "don't",
        "I'M",
        "L'été",
        "e\u0301",
        "\u0301",
        "É",
        "ß",
        "ſ",
        "ǅ",
    ),
    *("ʰ", "ª", "ñ", "гра́", "МОСКВА", "Ёж", "中文", "日本語", "한국어", "गाँव", "कुआँ", "ก็ค่ะ", "مُحَمَّد", "שָׁלוֹם"),
    *(
        "0",
        "12",
        "12345",
        "3.14",
        "½",
        "Ⅷ",
        "٣٤",
        "x²",
        "/",
        "//",
        "!?",
        "...",
        "=====",
        "-->",
        "{",
        '{"a": 1}',
    ),
    *(
        "😀",
        "👩\u200d👩\u200d👧",
        "🇩🇪",
        "\x00",
        "\x1c",
        "\x7f",
        "\ufeff",
        "\u200b",
        "�",
        "▁",
        "▁▁",
        "<0x41>",
        "<|",
        "|>",
    ),
)
WORDS = tuple(word for passage in passages(as_phi_3) for word in passage.text.split(" ")[:80])


def random_texts(count: int) -> list[str]:
    """Joins of hard pieces, words and characters out of the whole of Unicode; the same in every run."""
    chance = random.Random(1)
    pools = (WORDS, HARD, SPACES, OTHER_SPACES, SPECIAL)
    spans = ((0x20, 0x7E), (0xA0, 0x2FF), (0x300, 0xD7FF), (0xE000, 0x1FFFF))

    def part() -> str:
        if chance.random() < 0.75:
            return chance.choice(chance.choice(pools))
        return "".join(chr(chance.randint(*chance.choice(spans))) for _ in range(chance.randint(1, 4)))

    return ["".join(part() for _ in range(chance.randint(1, 14))) for _ in range(count)]


def real_texts() -> list[str]:
    """The lines of all passages that edgephi measures and calibrates on: prose, code, talk; 27 languages."""
    shipped = resources.files(edgephi.reference)
    stored = [each for part in ("evaluation", "calibration") for each in shipped_passages(shipped / part)]
    lines = (line for each in stored for line in in_words(each, as_phi_3).text.splitlines())
    return [*dict.fromkeys(line for line in lines if line.strip())]


def texts(*pools: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Texts that join pieces of the pools with any other characters."""
    parts = st.one_of([*(st.sampled_from(pool) for pool in pools), st.text(max_size=3)])
    return st.lists(parts, max_size=12).map("".join)


def demo_tokenizer() -> Path:
    """The demo's: SentencePiece-like, with merges learned by the `tokenizers` library."""
    return Path(__file__).parents[1] / "edgephi/demo/tokenizer.json"


def published_tokenizer(name: str) -> Path:
    """A published model's; skips the test where this machine has none."""
    file = PUBLISHED / name / "tokenizer.json"
    if not file.is_file():
        pytest.skip(f"no {file.parent.name} tokenizer here")
    return file


def tokenizer_of_kind(folder: Path, kind: str) -> Path:
    """One of KINDS."""
    return demo_tokenizer() if KINDS[kind] == "demo" else byte_level_tokenizer(folder, KINDS[kind])


def byte_level_tokenizer(folder: Path, kind: str) -> Path:
    """A small one: byte-level BPE behind a pattern.

    It is made like the published "phi-4" or "phi-4-mini", like "gpt-2"'s, or like those that have such a
    pattern behind "digits" one by one.
    """
    tokenizer = Tokenizer(models.BPE())
    with_regex = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if kind == "gpt-2":
        tokenizer.pre_tokenizer = with_regex
    elif kind == "digits":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, with_regex])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLITS[kind]), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([passage.text for passage in passages(as_phi_3)], trainer)
    strips = kind == "phi-4"  # as its makers have it
    special = {"phi-4": PHI_4_TOKENS, "phi-4-mini": PHI_4_MINI_TOKENS}.get(kind, GPT_2_TOKENS)
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False, lstrip=strips, rstrip=strips) for text in special]
    )
    file = folder / f"{kind}.json"
    tokenizer.save(str(file))
    return file


def with_flags(file: Path, folder: Path, rstrip: dict[str, bool]) -> Path:
    """A copy of a tokenizer whose added tokens strip the white space after them, or do not."""
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for token in data["added_tokens"]:
        token["rstrip"] = rstrip.get(token["content"], token["rstrip"])
    changed = folder / "changed.json"
    changed.write_text(json.dumps(data), encoding="utf-8")
    return changed
