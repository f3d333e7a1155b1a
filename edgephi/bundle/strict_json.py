"""JSON from strangers, read so that every reader understands the same, and so that it can be shown as it is.

JSON itself leaves open what a key twice in a table means and how large a number may be, and Python reads NaN
besides. A text may hold what clears a terminal or pretends to be another line. Standard library only.
"""

import json
import math
import re
from typing import Any

_LARGEST_NUMBER = (1 << 63) - 1
# Of 16 MiB of JSON, Python can make 350 MB of empty lists; what we write has a twentieth of these marks.
_MARKS = (b"[", b"{", b'"', b",")
_MOST_MARKS = 2_000_000
# Of the characters that steer a terminal, only tabs and the ends of lines belong into a text.
_STEERING = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def decode_strictly(data: bytes, *, any_text: bool = False) -> Any:
    """The value of a JSON document whose whole numbers all count something.

    `any_text`: what it says may hold what steers a terminal, such as a model's answer; who prints it looks.
    Raises ValueError, whose text says in one short line what is there instead of such JSON.
    """
    if sum(map(data.count, _MARKS)) > _MOST_MARKS:
        raise ValueError(f"more than {_MOST_MARKS} lists, tables and texts")
    try:
        text = data.decode()
        plain = json.loads(
            text,
            parse_int=_whole_number,
            parse_float=_number,
            parse_constant=_no_number,
            object_pairs_hook=_without_repetition,
        )
    except RecursionError:
        raise ValueError("tables in tables without an end") from None
    if any_text:
        return plain
    if "\\u" in text:  # an escape may stand for half a letter, which no terminal and no disk takes
        json.dumps(plain, ensure_ascii=False).encode()
    _check_texts(plain)
    return plain


def steers_a_terminal(text: str) -> bool:
    """Whether a text has a control character that no manifest may have."""
    return _STEERING.search(text) is not None


def _check_texts(plain: Any) -> None:
    waiting = [plain]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and steers_a_terminal(value):
            raise ValueError(f"control characters in {value[:80]!r}")


def _whole_number(digits: str) -> int:
    if len(digits) > len(str(_LARGEST_NUMBER)) or not 0 <= int(digits) <= _LARGEST_NUMBER:
        raise ValueError(f"the number {digits[:20]}, which counts nothing")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:20]}, which is too large")
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name}, which is no JSON")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError(f"a key twice in one table, which has {', '.join(table)[:80]!r}")
    return table
