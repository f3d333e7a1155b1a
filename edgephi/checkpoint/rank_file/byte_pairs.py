"""A byte-level `tokenizer.json` out of ranks: the same tokens for every text.

That file wants merges, a left and a right part for each token, where tiktoken has ranks alone. They are found
again by encoding every token with the ranks until two parts are left. One pair for each token is all: which
neighbours inside a stretch of text are joined does not depend on what is around it, so a token is always made
of the same two parts. Where two pairs for one token were listed, one that stands further right could be
joined before one that stands further left, which tiktoken never does.

Sources: `_educational.py` and `src/lib.rs` of tiktoken; `models/bpe` of the `tokenizers` library.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def merges(tokens: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The two parts that each token is made of, in the order in which they are joined.

    `tokens` stand at their ranks, every single byte among them. One that no joining comes to is left out: it
    is found as a whole word only.
    """
    ranks = {token: rank for rank, token in enumerate(tokens)}
    for token in tokens:
        parts = _last_parts(token, ranks)
        if len(parts) == 2:
            yield parts[0], parts[1]


def _last_parts(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """What byte-pair encoding has made of a token before the last joining, or where it cannot go on."""
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(parts[place] + parts[place + 1], -1) for place in range(len(parts) - 1)]
        known = [rank for rank in joined if rank >= 0]
        if not known:
            break
        place = joined.index(min(known))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


def write_tokenizer(
    file: Path, tokens: Sequence[bytes], special_tokens: Mapping[str, int], pattern: str
) -> None:
    """Write the `tokenizer.json` of `tokens`, which stand at their ranks: the same bytes every time.

    `special_tokens` are cut out of a text first; `pattern`, which matches all of what is left, cuts it into
    words. A word that is a token is that token, whatever joining would make of it.
    """
    with file.open("w", encoding="utf-8", newline="\n") as out:
        out.write("{\n")
        for key, value in _pipeline(special_tokens, pattern).items():
            out.write(f'"{key}": {json.dumps(value)},\n')
        out.write(f'"model": {json.dumps(_MODEL)[:-1]},\n"vocab": {{\n')
        entries = (f"{_spelt(token)}: {rank}" for rank, token in enumerate(tokens))
        _write_list(out.write, entries)
        out.write('},\n"merges": [\n')
        _write_list(out.write, (f"[{_spelt(left)}, {_spelt(right)}]" for left, right in merges(tokens)))
        out.write("]}\n}\n")


_MODEL = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": True,
}


def _pipeline(special_tokens: Mapping[str, int], pattern: str) -> dict[str, Any]:
    """All but the model. The special tokens stand in front, where readers of them alone look."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    in_order = sorted(special_tokens.items(), key=lambda each: each[1])
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id_, "content": text, **_FLAGS} for text, id_ in in_order],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
    }


def _write_list(write: Any, entries: Iterator[str]) -> None:
    before = ""
    for entry in entries:
        write(before + entry)
        before = ",\n"


def _spelt(token: bytes) -> str:
    """A token in JSON, with a letter for each byte."""
    return json.dumps(token.decode("latin-1").translate(_LETTERS), ensure_ascii=False)


def _letters() -> dict[int, str]:
    """The letter that stands for each byte: itself where it prints, else one from U+0100 on.

    Source: GPT-2's `encoder.py`.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(0x100 + place) for place, byte in enumerate(others)}


_LETTERS = _letters()
