"""A text of the user's to calibrate on: a file, or a folder with files, of prose or of conversations.

`.txt` and `.md` are text, cut into passages. A line of `.jsonl`, and a `.json` as a whole or each item of its
list, is `{"messages": [{"role": ..., "content": ...}, ...]}`, as models are fine-tuned with, or
`{"text": ...}`; other keys beside these say nothing here.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgephi.errors import BadInputError
from edgephi.reference.passages import (
    Encode,
    Message,
    Passage,
    Render,
    StoredConversation,
    StoredPassage,
    TokenPassage,
)
from edgephi.reference.token_shares import divide

LARGEST_TEXT = 64 << 20  # bytes; it is in memory while passages are chosen from it
UNKNOWN_LANGUAGE = "und"
"""ISO 639-2 for a language that nobody has determined."""

_PROSE = (".txt", ".md")
_RECORDS = (".json", ".jsonl")
_KINDS = (*_PROSE, *_RECORDS)
_ANY_KIND = f"{', '.join(_KINDS[:-1])} or {_KINDS[-1]}"
# English has four or five letters a token: a stretch holds what a passage is to have, and something to spare.
_LETTERS_PER_TOKEN = 6
_ENDS = ("\n\n", "\n", ". ", " ")
_HINT = (
    "give a file, or a folder with files: .txt and .md with text; .jsonl and .json with "
    '{"messages": [{"role": "user", "content": "..."}, ...]} or {"text": "..."}'
)


@dataclass(frozen=True)
class UserText:
    """The files of a text: their bytes by their names below the file or folder `path`, in the order of these.

    `sha256` is of a file what `sha256sum` prints, of a folder `hash_of` its files.
    """

    path: Path
    files: Mapping[str, bytes]
    sha256: str


def read_user_text(path: Path) -> UserText:
    """Read a file, or all files of a folder and below that may hold text.

    Raises BadInputError when there are none, or more than LARGEST_TEXT in all.
    """
    if path.is_dir():
        # What is hidden belongs to an editor or to git.
        below = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
        found = {
            name: below[name]
            for name in sorted(below)
            if below[name].suffix in _KINDS and not any(part.startswith(".") for part in name.split("/"))
        }
    elif path.is_file() and path.suffix in _KINDS:
        found = {path.name: path}
    else:
        what = "another kind of file" if path.is_file() else "a device, pipe or socket"
        what = what if path.exists() else "no such file"
        raise BadInputError(f"{path}: expected {_ANY_KIND} or a folder, found {what}", hint=_HINT)
    if not found:
        raise BadInputError(f"{path}: expected files of {_ANY_KIND}, found none", hint=_HINT)
    size = sum(file.stat().st_size for file in found.values())
    if size > LARGEST_TEXT:
        raise BadInputError(
            f"{path}: expected at most {LARGEST_TEXT >> 20} MiB of text, found {size / (1 << 20):,.0f} MiB",
            hint="give a part of it: a few thousand tokens are used",
        )
    files = {name: file.read_bytes() for name, file in found.items()}
    return UserText(path, files, hash_of(files) if path.is_dir() else _sha256(files[path.name]))


def user_passages(
    text: UserText,
    encode: Encode,
    render: Render,
    *,
    tokens: int,
    context: int,
    passage_tokens: int,
    least: int | None = None,
) -> list[TokenPassage]:
    """`tokens` tokens of the text, or as many as it has, in passages from all over it: see `divide`.

    Raises BadInputError when it has fewer than `least`, or than `tokens` where that is None, naming both
    numbers; and with the file, and the line of a `.jsonl`, for what is not UTF-8 or no such JSON.
    """
    stretch = _LETTERS_PER_TOKEN * min(passage_tokens, context)
    candidates = [
        passage
        for name, data in text.files.items()
        for passage in _passages(text.path / name if text.path.is_dir() else text.path, name, data, stretch)
    ]
    passages = divide(
        candidates, encode, render, tokens=tokens, context=context, passage_tokens=passage_tokens
    )
    found = sum(len(passage.ids) for passage in passages)
    least = tokens if least is None else least
    if found < least:
        raise BadInputError(
            f"{text.path}: expected {least:,} tokens of text to calibrate on, found {found:,}",
            hint="give more text, or leave --calibrate out: edgephi has a text of its own",
        )
    return passages


def hash_of(files: Mapping[str, bytes]) -> str:
    """The SHA-256 of the list that `sha256sum` prints of the files, in the order of their names."""
    lines = (f"{_sha256(files[name])}  {name}\n" for name in sorted(files))
    return _sha256("".join(lines).encode(errors="surrogateescape"))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _passages(where: Path, name: str, data: bytes, stretch: int) -> Iterator[StoredPassage]:
    """The passages of one file; a text is cut into pieces of about `stretch` letters."""
    try:
        text = data.decode("utf-8-sig")  # editors on Windows put a mark before it
    except UnicodeDecodeError as cause:
        line = data[: cause.start].count(b"\n") + 1
        raise BadInputError(
            f"{where}:{line}: expected UTF-8, found the byte 0x{data[cause.start]:02x}",
            hint="save the file as UTF-8",
        ) from None
    if name.endswith(_PROSE):
        yield from _pieces(name, text, stretch)
    elif name.endswith(".jsonl"):
        for number, line_text in enumerate(text.split("\n"), 1):
            if line_text.strip():
                place = f"{where}:{number}"
                yield from _record(place, f"{name}:{number}", _parsed(place, line_text), stretch)
    else:
        parsed = _parsed(where, text)
        for number, item in enumerate(parsed if isinstance(parsed, list) else [parsed], 1):
            place = f"{where}: item {number}" if isinstance(parsed, list) else str(where)
            yield from _record(place, f"{name}:{number}", item, stretch)


def _parsed(where: object, text: str) -> object:
    try:
        parsed: object = json.loads(text)
    except (ValueError, RecursionError) as cause:
        found = cause.msg if isinstance(cause, json.JSONDecodeError) else "something else"
        raise BadInputError(f"{where}: expected JSON, found an error: {found}", hint=_HINT) from None
    try:
        json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # an escape may stand for half a letter, which no tokenizer takes
        raise BadInputError(
            f"{where}: expected text, found half of a letter that takes two \\u escapes",
            hint="write both, or the letter itself",
        ) from None
    return parsed


def _record(where: str, name: str, record: object, stretch: int) -> Iterator[StoredPassage]:
    """The passages of one JSON record."""
    if isinstance(record, dict) and "messages" in record:
        yield StoredConversation(name, UNKNOWN_LANGUAGE, "chat", _messages(where, record["messages"]))
    elif isinstance(record, dict) and isinstance(record.get("text"), str):
        yield from _pieces(name, record["text"], stretch)
    else:
        raise BadInputError(f'{where}: expected "messages" or "text", found neither', hint=_HINT)


def _messages(where: str, messages: object) -> tuple[Message, ...]:
    if not isinstance(messages, list) or not messages:
        raise BadInputError(f"{where}: expected a list of messages, found none", hint=_HINT)
    for number, message in enumerate(messages, 1):
        for key in ("role", "content"):
            if not isinstance(message, dict) or not isinstance(message.get(key), str):
                raise BadInputError(
                    f'{where}: message {number}: expected a text as "{key}", found none', hint=_HINT
                )
    return tuple({"role": message["role"], "content": message["content"]} for message in messages)


def _pieces(name: str, text: str, stretch: int) -> Iterator[Passage]:
    """The text in pieces of about `stretch` letters, each up to the end of a paragraph, line or word."""
    start, number = 0, 0
    while start < len(text):
        end = start + stretch
        if len(text) - end < stretch // 2:
            end = len(text)  # no small piece at the end
        else:
            half = start + stretch // 2
            ends = (place + len(mark) for mark in _ENDS if (place := text.rfind(mark, half, end)) >= 0)
            end = next(ends, end)
        piece = text[start:end].strip()
        if piece:
            number += 1
            yield Passage(f"{name} ({number})", UNKNOWN_LANGUAGE, "text", piece)
        start = end
