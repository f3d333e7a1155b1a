"""Whose chat template and tokenizer a bundle has, in words."""

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from edgephi.guards.visible import visible

if TYPE_CHECKING:
    from edgephi.checkpoint.tokenizer import TokenizerFacts

_OWN = "edgephi: "
_RECIPE = "recipe"
_ADAPTER = "adapter "


def chat_form_line(source: str, remarks: Iterable[str] = ()) -> str:
    """One line for the `source` of a chat template, as a manifest has it, and what is to be said of it."""
    if source.startswith(_OWN):
        line = f"edgephi's format {source.removeprefix(_OWN)}"
    elif source == _RECIPE:
        line = "the template that the recipe names"
    elif source.startswith(_ADAPTER):
        name, _, file = source.removeprefix(_ADAPTER).rpartition(": ")
        line = f"the template of adapter {name} ({file})"
    else:
        line = f"the checkpoint's own template ({source})" if source else "a template of unknown source"
    return "; ".join([line, *remarks])


def tokenizer_rows(tokenizer: "TokenizerFacts", width: int) -> list[tuple[str, str]]:
    """Rows of a table about a tokenizer and its chat template, with lines of at most `width` letters."""
    tokens = f"{tokenizer.kind}, {tokenizer.vocabulary_size:,} tokens"
    rows = []
    for label, line in (
        ("tokenizer", "; ".join([tokens, *tokenizer.places.remarks])),
        ("chat", chat_form_line(tokenizer.chat.source, tokenizer.chat.remarks)),
    ):
        first, *more = textwrap.wrap(visible(line), width, break_on_hyphens=False)
        rows += [(label, first), *(("", each) for each in more)]
    return rows


def tokenizer_document(tokenizer: "TokenizerFacts | None") -> dict[str, Any]:
    """The same for JSON."""
    if tokenizer is None:
        return {"chat": None, "tokenizer": None}
    chat = tokenizer.chat
    return {
        "chat": {"source": chat.source, "remarks": list(chat.remarks)},
        "tokenizer": {
            "kind": tokenizer.kind,
            "vocabulary_size": tokenizer.vocabulary_size,
            "remarks": list(tokenizer.places.remarks),
        },
    }
