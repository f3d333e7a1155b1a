"""Reading a file of ranks, tiktoken's form of a tokenizer: a token in base64 and its rank in each line.

A token's rank is its id, and says when byte-pair encoding makes it: of all neighbours in a word that together
are a token, those of the lowest rank are joined first.

Source: `load.py` of tiktoken.
"""

import base64
import binascii
from pathlib import Path
from typing import NoReturn

from edgephi.checkpoint.git_lfs import check_no_pointer
from edgephi.errors import BadCheckpointError

_HINT = "copy the file again from the model that these weights come from"
_LARGEST_FILE_BYTES = 32 << 20  # the largest published one has 4 MB
_LONGEST_TOKEN_BYTES = 512
_BYTES = 256


def read_ranks(file: Path, count: int) -> tuple[bytes, ...]:
    """The tokens of a file that has `count` of them, each at the place that is its rank.

    Raises BadCheckpointError, naming the line, for a file in which a line is something else, a token or a
    rank is there twice or not at all, or a byte is no token, so that not every text could be encoded.
    """
    with file.open("rb") as data:
        content = data.read(_LARGEST_FILE_BYTES + 1)
    check_no_pointer(content, str(file), "a tokenizer's ranks")
    if len(content) > _LARGEST_FILE_BYTES:
        _fail(f"{file}", f"at most {_LARGEST_FILE_BYTES:,} bytes of ranks", "more")
    tokens: list[bytes] = [b""] * count
    lines: dict[bytes, int] = {}  # of each token
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{file}: line {number}"
        token, rank = _entry(line, where)
        if rank >= count:
            _fail(where, f"a rank below {count:,}", f"{rank:,}")
        if token in lines:
            _fail(where, "a token that is in no line before", f"that of line {lines[token]}")
        if tokens[rank]:
            _fail(where, "a rank that is in no line before", f"that of line {lines[tokens[rank]]}")
        tokens[rank], lines[token] = token, number
    if len(lines) < count:
        missing = tokens.index(b"")
        _fail(f"{file}", f"{count:,} tokens", f"{len(lines):,}, and none of rank {missing:,}")
    lacking = next((byte for byte in range(_BYTES) if bytes([byte]) not in lines), None)
    if lacking is not None:
        _fail(f"{file}", "a token for each byte", f"none for the byte {lacking}")
    return tuple(tokens)


def _entry(line: bytes, where: str) -> tuple[bytes, int]:
    """The token and the rank of a line."""
    try:
        text, rank = line.split()
        if not rank.isdigit() or len(rank) > len(str(_LARGEST_FILE_BYTES)):
            raise ValueError
        token = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        shown = line if len(line) <= 40 else line[:37] + b"..."
        _fail(where, "a token in base64 and its rank", ascii(shown.decode("latin-1")))
    if not 0 < len(token) <= _LONGEST_TOKEN_BYTES:
        _fail(where, f"a token of 1 to {_LONGEST_TOKEN_BYTES} bytes", f"one of {len(token):,}")
    return token, int(rank)


def _fail(where: str, expected: str, found: str) -> NoReturn:
    raise BadCheckpointError(f"{where}: expected {expected}, found {found}", hint=_HINT)
