"""The parts of a message in which there are images, in the words of a session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from edgephi.server.refusal import Refusal

# What is asked of how closely the model looks, and so many tiles at most; None: as many as it has.
_CROPS: dict[str | None, int | None] = {None: None, "auto": None, "high": None, "low": 1}


def parts_or_text(parts: Sequence[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """The parts where there is an image among them, else their texts."""
    if any(part["type"] == "image" for part in parts):
        return list(parts)
    return joined(part["text"] for part in parts)


def joined(texts: Iterable[str]) -> str:
    """Texts of parts as one, on lines of their own, as vLLM and llama.cpp join them.

    The last word of one is none with the first of the next.
    """
    return "\n".join(texts)


def crops_of(detail: str | None, param: str) -> int | None:
    """The most tiles of an image by the API's word for how closely it is looked at; None: the model's own.

    Raises Refusal, which names `param`, for a word that is not of the API.
    """
    if detail not in _CROPS:
        raise Refusal(
            400, f"expected the detail 'low', 'high' or 'auto', found {str(detail)[:40]!r}", param=param
        )
    return _CROPS[detail]
