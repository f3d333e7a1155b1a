"""What a session itself reads out of a bundle's `tokenizer.json`, whatever tokenizer its engine has.

Every artifact has the file. Nothing of it is kept but what was asked for: a vocabulary takes tens of
megabytes as Python objects.

Source of the format: the `tokenizers` library of Hugging Face.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError

_ADDED = b'"added_tokens"'
_MOST_ADDED_BYTES = 1 << 20
_SPACES = re.compile(r"\s+")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space


def added_tokens(file: Path) -> dict[str, int]:
    """The texts that become one token wherever they stand, like `<|end|>`, and their token ids.

    Raises BadBundleError when the file cannot be read as a tokenizer.
    """
    return {text: id_ for text, id_, _ in _entries(file, _added(file))}


def ordinary_tokens(file: Path) -> frozenset[str]:
    """Those added tokens that the file does not call special, like `<think>`. Raises BadBundleError."""
    return frozenset(text for text, _, special in _entries(file, _added(file)) if not special)


def _added(file: Path) -> Any:
    """The file's list of added tokens."""
    # The list stands in front of the vocabulary, which takes longer to read than a small model to load.
    _, _, after = _read(file, _MOST_ADDED_BYTES).partition(_ADDED)
    entries: Any = None
    with contextlib.suppress(ValueError):
        entries, _ = json.JSONDecoder().raw_decode(after.decode(errors="replace").lstrip(" \t\r\n:"))
    if not isinstance(entries, list):
        entries = _parse(file, _read(file)).get("added_tokens")
    return entries


def beginning_tokens(file: Path) -> tuple[int, ...]:
    """The ids of the tokens that the tokenizer puts before every text, where it is told to. Often none.

    Raises BadBundleError.
    """
    content = _parse(file, _read(file))
    try:
        processor = content.get("post_processor") or {}
        found: list[int] = []
        for step in processor.get("processors", [processor]):
            for piece in step.get("single", ()) if step.get("type") == "TemplateProcessing" else ():
                if "SpecialToken" not in piece:
                    break
                found += step["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
        return tuple(map(int, found))
    except (AttributeError, KeyError, TypeError, ValueError) as cause:
        raise _broken(file, f"{type(cause).__name__}: {cause}") from None


def token_bytes(file: Path) -> dict[int, bytes]:
    """The bytes that each token stands for. Those of special tokens are their names.

    Put together, the bytes of an answer's tokens are its text; a tokenizer of SentencePiece's kind leaves
    out one space at its start. Raises BadBundleError.
    """
    content = _parse(file, _read(file))
    try:
        vocabulary = content["model"]["vocab"]
        table = _byte_letters() if "ByteLevel" in _step_types(content["decoder"]) else None
        found = {id_: _bytes_of(token, table) for token, id_ in vocabulary.items()}
    except (AttributeError, KeyError, TypeError, UnicodeEncodeError) as cause:
        raise _broken(file, f"{type(cause).__name__}: {cause}") from None
    for text, id_, _ in _entries(file, content.get("added_tokens", [])):
        found[id_] = text.encode()
    return found


@dataclass(frozen=True)
class Coverage:
    """How much text tokens can stand for: no token for more than `longest_token_bytes` of UTF-8.

    But special tokens that `end_in_space` or `begin_with_space` take the white space beside them, however
    much it is.
    """

    longest_token_bytes: int
    end_in_space: tuple[str, ...] = ()
    begin_with_space: tuple[str, ...] = ()

    def least_tokens(self, text: str) -> int:
        """As many tokens as `text` has at least, however it is encoded."""
        size = _utf8_bytes(text)
        if self.end_in_space or self.begin_with_space:
            size -= sum(_utf8_bytes(run[0]) for run in _SPACES.finditer(text) if self._swallows(run))
        return -(-size // self.longest_token_bytes)

    def _swallows(self, run: re.Match[str]) -> bool:
        text, (start, end) = run.string, run.span()
        return text.endswith(self.end_in_space, 0, start) or text.startswith(self.begin_with_space, end)


def coverage(file: Path) -> Coverage | None:
    """How much text the tokens of a vocabulary can stand for; None when that cannot be told.

    It can where every byte of a text is part of exactly one token: no step in front leaves any out, and what
    is in no token is written byte by byte. Raises BadBundleError.
    """
    content = _parse(file, _read(file))
    try:
        steps = [*_steps(content.get("normalizer")), *_steps(content.get("pre_tokenizer"))]
        model, added = content["model"], content.get("added_tokens", [])
        if any(_SPACES.search(text) for text, *_ in _entries(file, added)):
            return None  # one that is white space itself could end in more of it
        by_letter = any(step["type"] == "ByteLevel" for step in steps)
        if not all(map(_keeps_all_bytes, steps)) or not (by_letter or model.get("byte_fallback")):
            return None
        # In byte-level vocabularies each letter is a byte; in others the sign for a space may be a letter.
        longest = max(len(token) if by_letter else len(token.encode()) for token in model["vocab"])
        longest = max([longest, *(len(text.encode()) for text, *_ in _entries(file, added))])
        return Coverage(
            longest,
            end_in_space=tuple(token["content"] for token in added if token.get("rstrip")),
            begin_with_space=tuple(token["content"] for token in added if token.get("lstrip")),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as cause:
        raise _broken(file, f"{type(cause).__name__}: {cause}") from None


def leaves_out_first_space(file: Path) -> bool:
    """Whether a text that is decoded loses a space at its start, as in tokenizers of SentencePiece's kind.

    Raises BadBundleError.
    """
    try:
        return not {"Strip", "Metaspace"}.isdisjoint(_step_types(_parse(file, _read(file)).get("decoder")))
    except (AttributeError, KeyError, TypeError) as cause:
        raise _broken(file, f"{type(cause).__name__}: {cause}") from None


def _utf8_bytes(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


def _read(file: Path, size: int = -1) -> bytes:
    try:
        with file.open("rb") as data:
            return data.read(size)
    except OSError as cause:
        raise _broken(file, str(cause.strerror or cause)) from None


def _parse(file: Path, data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as cause:
        raise _broken(file, str(cause)) from None
    if not isinstance(content, dict):
        raise _broken(file, f"a {type(content).__name__}")
    return content


def _entries(file: Path, entries: Any) -> Iterator[tuple[str, int, bool]]:
    """Text and id of each added token, and whether it is special."""
    for entry in entries if isinstance(entries, list) else [entries]:
        try:
            text, id_ = entry["content"], entry["id"]
        except (KeyError, TypeError):
            text = id_ = None
        if not isinstance(text, str) or not text or not isinstance(id_, int):
            raise _broken(file, f"an added token {entry!r}")
        yield text, id_, entry.get("special") is True


def _steps(step: Any) -> Iterator[dict[str, Any]]:
    """A decoder, normaliser or pre-tokeniser, and those inside it."""
    if step is not None:
        yield step
        for kind in ("decoders", "normalizers", "pretokenizers"):
            for each in step.get(kind, []):
                yield from _steps(each)


def _step_types(step: Any) -> set[str]:
    """The types of a decoder and of those inside it."""
    return {each["type"] for each in _steps(step)}


def _keeps_all_bytes(step: dict[str, Any]) -> bool:
    """Whether a step in front of a model leaves out no byte of a text."""
    if step["type"] == "Replace":
        return bool(step["pattern"] == {"String": " "} and step["content"])
    # What the family's `Split` removes is what lies between its matches, and those leave nothing.
    return step["type"] in ("Sequence", "Prepend", "Metaspace", "Split", "ByteLevel")


def _bytes_of(token: str, table: Mapping[str, int] | None) -> bytes:
    """The bytes of a token as the vocabulary spells it. `table` is that of byte-level tokenizers."""
    if table is not None:
        return bytes(table[letter] for letter in token)
    if len(token) == len("<0x00>") and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass
    return token.replace(_SPACE, " ").encode()


def _byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in byte-level vocabularies.

    Printable bytes of Latin-1 stand for themselves, the others for letters from U+0100 on. Source: GPT-2's
    `encoder.py`.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + place): byte for place, byte in enumerate(others)}


def _broken(file: Path, found: str) -> BadBundleError:
    return BadBundleError(
        f"{file}: expected a tokenizer, found {' '.join(found.split())}",
        hint=f"copy the bundle again and check it with `{edgephi_command('verify')}`",
    )
