"""The grammar that holds an answer to calls that are whole: for the library llguidance, in its kind of Lark.

Text may come first, until the form's mark comes; from there on nothing can be written but calls of the
functions that there are, each with arguments of its schema.

Source: llguidance's docs/syntax.md, "Tool calling" and "Special tokens".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from edgephi.chat.tools.call_form import CallForm
from edgephi.chat.tools.function import Calling, Function
from edgephi.runtime.text.rules import JSON_LAYOUT, Rules

MOST_CALLS = 16
"""In one answer: a small model may never stop calling."""

# What holds for an object beside its properties: to close it could leave nothing that fulfils both.
_OPEN_KEYS = frozenset(
    {"additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "not", "$ref", "if"}
)
_ANY_TEXT = r"/(.|\n)*/"
_TEXT_BUT_JSON = r"/([^\[{\s](.|\n)*)?/"


def call_grammar(
    form: CallForm, calling: Calling, special: Mapping[str, int], content: str | None = None
) -> Rules:
    """The grammar of an answer, in which `calling` says what may be called.

    `special` are the ids of the tokenizer's special tokens by their texts. `content` is the JSON schema (as
    JSON text) of an answer without calls, None where that may be any text.
    """
    rules = [f"calls: {_literals(form.before, special)} call {_more(form, calling)} {_end(form, special)}"]
    if form.between is not None:
        rules.append(f"between: {_literals(form.between, special)}")
    rules.append("call: " + " | ".join(f"call_{place}" for place in range(len(calling.functions))))
    rules += [_call(form, place, function) for place, function in enumerate(calling.functions)]
    rules.append(f"TEXT: {_TEXT_BUT_JSON if form.is_bare else _ANY_TEXT}")
    if calling.choice == "required" or content is not None or form.is_bare:
        start = ["calls"]
    elif form.mark in special:
        start = ["TEXT calls"]
    else:
        # Lazy: text ends where the mark comes first, however long it could go on.
        rest = _literals(form.before[len(form.mark) :], special)
        rules += [
            f"marked[lazy]: TEXT {_quoted(form.mark)}",
            f"after_text: marked {rest} call {_more(form, calling)} {_end(form, special)}",
        ]
        start = ["after_text"]
    if calling.choice != "required":
        start.append("TEXT" if content is None else f"%json {_with_layout(json.loads(content))}")
    return Rules("tools", "\n".join(["%llguidance {}", f"start: {' | '.join(start)}", *rules]))


def trial_grammar(calling: Calling, content: str | None = None) -> Rules:
    """What is hard in the grammar of an answer, at its very beginning: whether it can be followed at all."""
    schemas = [_arguments(function) for function in calling.functions]
    if content is not None:
        schemas.append(_with_layout(json.loads(content)))
    return Rules("tools", "start: " + " | ".join(f"%json {schema}" for schema in schemas))


def _call(form: CallForm, place: int, function: Function) -> str:
    """The rule of one function: its name, and arguments of its schema."""
    return f"call_{place}: {_quoted(function.name + form.within)} %json {_arguments(function)}"


def _arguments(function: Function) -> str:
    return _with_layout({"type": "object", **_closed(function.parameters)})


def _more(form: CallForm, calling: Calling) -> str:
    """More calls after the first, where they may come."""
    several = calling.parallel and form.between is not None
    return f"(between call){{0,{MOST_CALLS - 1}}}" if several else ""


def _end(form: CallForm, special: Mapping[str, int]) -> str:
    return _literals(form.after, special)


def _literals(text: str, special: Mapping[str, int]) -> str:
    """A text as the grammar has it: special tokens by their ids, and what is between them in quotes."""
    found = [each for each in special if each in text]
    if not found:
        return _quoted(text) if text else ""
    longest_first = sorted(found, key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
    return " ".join(f"<[{special[part]}]>" if part in special else _quoted(part) for part in parts if part)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _with_layout(schema: Mapping[str, Any]) -> str:
    return json.dumps({**schema, "x-guidance": JSON_LAYOUT})


def _closed(schema: Any) -> Any:
    """A schema whose objects have no properties but those that it names, unless it says that they may.

    A model that may write what it likes makes up arguments, and no function takes them.
    """
    if not isinstance(schema, Mapping):
        return schema
    closed = dict(schema)
    properties = closed.get("properties")
    if isinstance(properties, Mapping):
        closed["properties"] = {name: _closed(each) for name, each in properties.items()}
        if _OPEN_KEYS.isdisjoint(closed):
            closed["additionalProperties"] = False
    if isinstance(closed.get("items"), Mapping):
        closed["items"] = _closed(closed["items"])
    return closed
