"""What a `tokenizer.json` says, checked, and its vocabulary in the two spellings OpenVINO's graphs need.

- For the way in, a token is spelt as the text that it stands for: `<0x0A>` is the byte 10. Byte fallback is
  then nothing but the longest match, and the six letters `<0x0A>` in a text stay six letters. A token that
  byte-pair encoding can never make is spelt as no text is.
- For the way out, a token is spelt as the text that it adds, spaces and bytes included.

Source: the `tokenizers` library, `models/bpe`, `added_vocabulary.rs` and `decoders`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from edgephi.errors import BadCheckpointError, NotSupportedError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_HINT = "use the tokenizer.json that the model was published with"

Step = Mapping[str, Any]
"""One step of a normalizer, pre-tokenizer, post-processor or decoder, as the file writes it."""


@dataclass(frozen=True)
class AddedToken:
    """A token that is cut out of a text before anything else looks at it, white space beside it or not.

    A `special` one is left out of decoded text.
    """

    id: int
    text: str
    strips_left: bool
    strips_right: bool
    special: bool


@dataclass(frozen=True)
class TokenizerFile:
    """A `tokenizer.json`. Sequences of steps are flattened; `added_tokens` come longest first.

    `vocabulary` and `merges` spell tokens as the file does. With `is_byte_level` that is GPT-2's way, a
    letter for each byte; without it letters that the vocabulary lacks fall back to tokens such as `<0x0A>`.
    """

    where: str
    vocabulary: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]
    is_byte_level: bool
    added_tokens: tuple[AddedToken, ...]
    normalizer: tuple[Step, ...]
    pre_tokenizer: tuple[Step, ...]
    post_processor: tuple[Step, ...]
    decoder: tuple[Step, ...]

    @property
    def size(self) -> int:
        """The highest id plus one."""
        return max(*self.vocabulary.values(), *(token.id for token in self.added_tokens)) + 1


def read_tokenizer_file(file: Path) -> TokenizerFile:
    """Read a `tokenizer.json`. Raises BadCheckpointError or NotSupportedError."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as cause:
        raise BadCheckpointError(f"{file}: expected a tokenizer, found {cause}", hint=_HINT) from None
    model = content["model"]
    if model["type"] != "BPE":
        refuse(file, "model", model["type"])
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            refuse(file, f"model: {key}", repr(model[key]))
    pre_tokenizer = _steps(content["pre_tokenizer"])
    tokenizer = TokenizerFile(
        where=str(file),
        vocabulary=model["vocab"],
        merges=tuple(_merges(model["merges"])),
        is_byte_level=any(step["type"] == "ByteLevel" for step in pre_tokenizer),
        added_tokens=tuple(_added_tokens(content["added_tokens"])),
        normalizer=_steps(content["normalizer"]),
        pre_tokenizer=pre_tokenizer,
        post_processor=_steps(content["post_processor"]),
        decoder=_steps(content["decoder"]),
    )
    for token in content["added_tokens"]:
        if token["single_word"] or (token["normalized"] and tokenizer.normalizer):
            refuse(file, f"added token {token['content']!r}", "single_word or normalized")
    if not tokenizer.is_byte_level and not model.get("byte_fallback"):
        refuse(file, "model", "neither byte_fallback nor a ByteLevel pre-tokenizer")
    if model.get("ignore_merges"):
        unmade = tokenizer.vocabulary.keys() - _makeable(tokenizer)
        if unmade:
            refuse(file, "model", f"ignore_merges, and no merge makes {min(unmade)!r}")
    return tokenizer


def refuse(where: object, part: str, found: object) -> NoReturn:
    """Raise NotSupportedError for a part of a tokenizer."""
    raise NotSupportedError(
        f"{where}: {part}: expected what Phi-3's tokenizers use, found {found}", hint=_HINT
    )


def spellings_in(tokenizer: TokenizerFile) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """How each id is spelt for the way in, and the merges in that spelling."""
    vocabulary, makeable = tokenizer.vocabulary, _makeable(tokenizer)
    # A text is UTF-8, so no text has a byte 255 with anything after it.
    spellings = [b"\xff" + str(id_).encode() for id_ in range(tokenizer.size)]
    for token, id_ in vocabulary.items():
        if token in makeable:
            spellings[id_] = _bytes_of(token) if tokenizer.is_byte_level else token.encode()
            continue
        code = None if tokenizer.is_byte_level else _byte_of(token)
        # A byte that is a letter of the vocabulary is always that letter.
        if code is not None and (code > 127 or chr(code) not in vocabulary):
            spellings[id_] = bytes([code])
    merges = [
        (spellings[vocabulary[left]], spellings[vocabulary[right]])
        for left, right in tokenizer.merges
        if left in makeable and right in makeable
    ]
    for added in tokenizer.added_tokens:
        spellings[added.id] = added.text.encode()
    return spellings, merges


def spellings_out(tokenizer: TokenizerFile) -> list[bytes]:
    """What each id adds to a text, as far as that does not depend on its neighbours."""
    spellings = [b""] * tokenizer.size
    tokens = {id_: token for token, id_ in tokenizer.vocabulary.items()}
    tokens |= {added.id: added.text for added in tokenizer.added_tokens}
    for id_, token in tokens.items():
        spellings[id_] = _decode(tokenizer, token)
    return spellings


def _decode(tokenizer: TokenizerFile, token: str) -> bytes:
    for step in tokenizer.decoder:
        if step["type"] == "Replace" and "String" in step["pattern"]:
            token = token.replace(step["pattern"]["String"], step["content"])
        elif step["type"] == "ByteFallback":
            code = _byte_of(token)
            if code is not None:
                return bytes([code])
        elif step["type"] == "ByteLevel":
            return _bytes_of(token) if all(letter in _BYTE_LETTERS for letter in token) else token.encode()
        elif step["type"] not in ("Fuse", "Strip"):  # these look at the whole text
            refuse(tokenizer.where, "decoder", step["type"])
    return token.encode()


def _makeable(tokenizer: TokenizerFile) -> set[str]:
    """The tokens that byte-pair encoding begins with or can come to."""
    return {left + right for left, right in tokenizer.merges}.union(
        token for token in tokenizer.vocabulary if len(token) == 1
    )


def _merges(merges: Iterable[str | list[str]]) -> Iterable[tuple[str, str]]:
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


def _added_tokens(tokens: Iterable[Mapping[str, Any]]) -> list[AddedToken]:
    """Longest first: of two that begin alike the longer one is meant."""
    found = [
        AddedToken(token["id"], token["content"], token["lstrip"], token["rstrip"], token["special"])
        for token in tokens
    ]
    return sorted(found, key=lambda token: (-len(token.text), token.text))


def _steps(part: Step | None) -> tuple[Step, ...]:
    if part is None:
        return ()
    if part["type"] != "Sequence":
        return (part,)
    children = next(value for value in part.values() if isinstance(value, list))
    return tuple(step for child in children for step in _steps(child))


def _byte_of(token: str) -> int | None:
    match = _BYTE_TOKEN.fullmatch(token)
    return None if match is None else int(match[1], 16)


def _bytes_of(token: str) -> bytes:
    return bytes(_BYTE_LETTERS[letter] for letter in token)


def _byte_letters() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for, by GPT-2: itself where it prints."""
    prints = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in prints)
    return {chr(byte): byte for byte in prints} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_LETTERS = _byte_letters()
