"""What an answer is held to: a JSON schema, a regular expression, a grammar, or calls of tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["json_schema", "regex", "grammar", "tools"]

_NAMES: dict[Kind, str] = {
    "json_schema": "a JSON schema",
    "regex": "a regular expression",
    "grammar": "a grammar",
    "tools": "a list of tools",
}

JSON_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How JSON is written, as `json.dumps` does it: for the member "x-guidance" of a schema in a grammar.

With any white space allowed, a small model may write nothing but line breaks.
"""


@dataclass(frozen=True)
class Rules:
    """Rules of one kind for an answer, as text.

    A "json_schema" is JSON text. A "regex" is one of Rust's crate `regex`, which the whole answer must match.
    A "grammar" is Lark's, as llguidance reads it, or llama.cpp's GBNF; "tools" are one of edgephi's own, in
    which others' JSON schemas stand.
    """

    kind: Kind
    text: str

    @property
    def name(self) -> str:
        """What they are, for messages: "a JSON schema"."""
        return _NAMES[self.kind]

    @property
    def short_name(self) -> str:
        """The same without its article."""
        return self.name.removeprefix("a ")
