"""`tokenizer.json` -> the tokenizer that llama.cpp reads from a GGUF file.

There are two kinds. Phi-3's is a SentencePiece vocabulary: spaces become "▁", one is put before a text,
and what is in no piece falls back to bytes. llama.cpp calls it "llama"; it has no list of merges but a score
for each piece, and always joins the two neighbours that make the piece of the highest score. Phi-4's is a
byte-level BPE behind patterns that split the text first; llama.cpp calls it "gpt2", reads its merges, and
knows patterns by name.

Sources: `src/llama-vocab.cpp` of llama.cpp, its converter's special cases, and the `tokenizers` library.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Never

from edgephi.chat.formats import PHI_3_CHAT, ChatFormat
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.tokenizer import TokenizerFacts
from edgephi.commands import edgephi_command
from edgephi.errors import NotSupportedError
from edgephi.export.word_patterns import DIGIT, GPT_2, word_patterns

if TYPE_CHECKING:
    from gguf import GGUFWriter

# Kinds of tokens, as llama.cpp's `enum llama_token_type` numbers them.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_SENTENCEPIECE_NORMALIZERS = [
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
]
# llama.cpp's names of the patterns that split a text before any merge, by the patterns themselves.
_SPLITS: dict[tuple[str, ...], str] = {
    (DIGIT, GPT_2): "smollm",
    (GPT_2,): "gpt-2",
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ): "dbrx",
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ): "gpt-4o",
}
# In a model whose name says Phi-3, llama.cpp lets every added token but these strip the white space after it.
_STRIPPING_NAMES = ("phi-3", "phi3")
_NEVER_STRIPPING = ("<unk>", "<s>", "<|endoftext|>")
_ALWAYS_NAMED = ("<unk>", "<s>", "</s>", "<|endoftext|>")
_END_OF_TEXT = "<|endoftext|>"
_ENDS_OF_TURN = ("<|end|>", "<|im_end|>")


@dataclass(frozen=True)
class GgufTokenizer:
    """What goes into a file's `tokenizer.ggml.*`. `tokens` and `types` have an entry for each embedding row.

    `scores`, one a token, belongs to the kind "llama"; `merges` ("left right" each) and `split`, llama.cpp's
    name of the pattern, to the kind "gpt2". `strips` maps each added token to whether it strips the white
    space after it.
    """

    kind: Literal["llama", "gpt2"]
    split: str
    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float] | None
    merges: Sequence[str] | None
    add_bos: bool
    strips: Mapping[str, bool]


def read_gguf_tokenizer(file: Path, vocabulary_size: int) -> GgufTokenizer:
    """Convert a `tokenizer.json` that the `tokenizers` library has accepted.

    Raises NotSupportedError when the file does something that llama.cpp has no word for.
    """
    data = json.loads(file.read_bytes())
    model, added = data["model"], data.get("added_tokens") or []
    if model["type"] != "BPE":
        _refuse(file, "a BPE model", model["type"])
    for token in added:
        if token["normalized"]:
            _refuse(file, "added tokens that are matched before normalising", token["content"])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    sentencepiece = bool(model.get("byte_fallback"))
    if sentencepiece:
        _check_sentencepiece(file, data)
    tokens, types = _tokens(model, added, vocabulary_size, bytes_are_tokens=sentencepiece)
    return GgufTokenizer(
        kind="llama" if sentencepiece else "gpt2",
        split="default" if sentencepiece else _split(file, data),
        tokens=tokens,
        types=types,
        scores=_scores(tokens, merges) if sentencepiece else None,
        merges=None if sentencepiece else merges,
        add_bos=_adds_bos(data.get("post_processor") or {}),
        strips={token["content"]: token["rstrip"] for token in added},
    )


def add_tokenizer(
    writer: "GGUFWriter", tokenizer: GgufTokenizer, facts: TokenizerFacts, architecture: Architecture
) -> None:
    """Put the tokenizer, its special tokens and the chat template into a file's header."""
    writer.add_tokenizer_model(tokenizer.kind)
    writer.add_tokenizer_pre(tokenizer.split)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    if tokenizer.scores is not None:
        writer.add_token_scores(tokenizer.scores)
        writer.add_add_space_prefix(True)
    if tokenizer.merges is not None:
        writer.add_token_merges(tokenizer.merges)
    if UNKNOWN in tokenizer.types:
        writer.add_unk_token_id(tokenizer.types.index(UNKNOWN))
    if architecture.bos_token_id is not None:
        writer.add_bos_token_id(architecture.bos_token_id)
    end_of_text, *more = ends(facts)
    writer.add_eos_token_id(end_of_text)
    for add, id_ in zip((writer.add_eot_token_id, writer.add_eom_token_id), more, strict=False):
        add(id_)
    writer.add_pad_token_id(end_of_text if architecture.pad_token_id is None else architecture.pad_token_id)
    writer.add_add_bos_token(tokenizer.add_bos)
    writer.add_add_eos_token(False)
    own, ours = facts.chat.template, facts.chat.built_in
    writer.add_chat_template(own if ours is None else chat_template(tokenizer, ours))


def ends(facts: TokenizerFacts) -> list[int]:
    """The stop tokens: end of text, end of turn, then the others.

    llama.cpp ends an answer at its eos, eot and eom tokens, and at tokens that it knows by their text, of
    which the family has `<|endoftext|>`, `<|end|>` and `<|im_end|>`. `<|assistant|>` needs the place of eom.
    """
    order = {facts.special_tokens[text]: 1 for text in _ENDS_OF_TURN if text in facts.special_tokens}
    order[facts.special_tokens.get(_END_OF_TEXT, -1)] = 0
    return sorted(facts.stop_token_ids, key=lambda id_: (order.get(id_, 2), id_))


def suited_name(name: str, tokenizer: GgufTokenizer) -> str:
    """`name`, changed so that llama.cpp lets the added tokens strip white space as tokenizer.json does.

    A GGUF file has no place for that flag; llama.cpp goes by the model's name, for all tokens alike. Where
    some of them strip and some do not, it is told that none does, and `chat_template` mends the rest.
    """
    named = any(word in name.lower() for word in _STRIPPING_NAMES)
    if _all_strip(tokenizer) and not named:
        return f"{name} (Phi-3)"
    if named and not _all_strip(tokenizer):
        return re.sub(r"(?i)(phi)-?3", r"\1 3", name)
    return name


def breaks_after(tokenizer: GgufTokenizer, chat: ChatFormat | None) -> Mapping[str, bool]:
    """Whether a prompt for llama.cpp has a line break after `<|system|>`, `<|user|>`, … in Phi-3's format.

    A break that tokenizer.json lets a token strip, and llama.cpp does not, is better not written.
    """
    return {
        text: chat is PHI_3_CHAT and (_all_strip(tokenizer) or not tokenizer.strips.get(text, False))
        for text in ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
    }


def chat_template(tokenizer: GgufTokenizer, chat: ChatFormat) -> str:
    """The Jinja template for llama.cpp's own tools: it makes the same tokens as the checkpoint's."""
    breaks = breaks_after(tokenizer, chat)
    if chat is not PHI_3_CHAT or all(breaks.values()):
        return chat.template
    roles = [text.strip("<|>") for text, broken in breaks.items() if broken]
    return (
        "{% for message in messages %}"
        "{{ '<|' + message['role'] + '|>' }}"
        f"{{% if message['role'] in {roles} %}}{{{{ '\\n' }}}}{{% endif %}}"
        f"{{{{ message['content'] + '<|end|>{_line_break(breaks['<|end|>'])}' }}}}"
        "{% endfor %}"
        "{% if add_generation_prompt %}"
        f"{{{{ '<|assistant|>{_line_break(breaks['<|assistant|>'])}' }}}}"
        "{% endif %}"
    )


def _line_break(wanted: bool) -> str:
    """A line break as it is written inside a text of Jinja's."""
    return r"\n" if wanted else ""


def _all_strip(tokenizer: GgufTokenizer) -> bool:
    """Whether the added tokens are those of Phi-3, with the flags that llama.cpp gives them by its name."""
    strips = tokenizer.strips
    if not all(text in strips for text in _ALWAYS_NAMED):
        return False  # llama.cpp refuses a file that is named so and lacks one of them
    return all(strips[text] == (text not in _NEVER_STRIPPING) for text in strips)


def _tokens(
    model: Mapping[str, Any],
    added: Sequence[Mapping[str, Any]],
    vocabulary_size: int,
    *,
    bytes_are_tokens: bool,
) -> tuple[list[str], list[int]]:
    """Text and kind of every id; those that belong to no token get a text that no input merges into."""
    tokens = [f"[PAD{id_}]" for id_ in range(vocabulary_size)]
    types = [UNUSED] * vocabulary_size
    byte_texts = {f"<0x{byte:02X}>" for byte in range(256)} if bytes_are_tokens else set()
    for text, id_ in model["vocab"].items():
        tokens[id_] = text
        types[id_] = BYTE if text in byte_texts else NORMAL
    for token in added:
        tokens[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    if model.get("unk_token") is not None:
        types[model["vocab"][model["unk_token"]]] = UNKNOWN
    return tokens, types


def _scores(tokens: Sequence[str], merges: Sequence[str]) -> list[float]:
    """A score for each token: the earlier a merge makes it, the higher.

    Every merge that makes a piece stands beside the others that make it, in a file that was converted from
    SentencePiece's; so the order of the pieces says as much as the order of the merges.
    """
    first: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        first.setdefault(merge.replace(" ", ""), rank)
    # No merge makes the other tokens, so their score is never compared with another.
    return [-float(first.get(token, len(merges))) for token in tokens]


def _check_sentencepiece(file: Path, data: Mapping[str, Any]) -> None:
    normalizer = data.get("normalizer") or {}
    if normalizer.get("normalizers") != _SENTENCEPIECE_NORMALIZERS:
        _refuse(file, "a normaliser that puts ▁ before a text and in place of spaces", normalizer)
    if data.get("pre_tokenizer") is not None:
        _refuse(file, "no pre-tokenizer beside byte fallback", data["pre_tokenizer"])


def _split(file: Path, data: Mapping[str, Any]) -> str:
    """llama.cpp's name of the patterns of a byte-level BPE."""
    if data.get("normalizer") is not None:
        _refuse(file, "no normaliser in a byte-level BPE", data["normalizer"])
    patterns = word_patterns(file, data.get("pre_tokenizer"), engine="GGUF")
    if patterns not in _SPLITS:
        _refuse(file, "patterns of words that llama.cpp knows", " then ".join(patterns))
    return _SPLITS[patterns]


def _adds_bos(post_processor: Mapping[str, Any]) -> bool:
    """Whether a token is put before every text that is encoded with special tokens."""
    steps = post_processor.get("processors", [post_processor])
    return any("SpecialToken" in part for step in steps for part in step.get("single", [])[:1])


def _refuse(file: Path, expected: str, found: object) -> Never:
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    raise NotSupportedError(
        f"{file}: expected {expected} for GGUF, found {text[:200]}",
        hint=f"build it for another engine: `{edgephi_command('targets')}`",
    )
