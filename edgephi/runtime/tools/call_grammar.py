"""The grammar that holds an answer to calls that are whole: for the library llguidance, in its kind of Lark.

Text may come first, until the form's mark comes; from there on nothing can be written but calls of the
functions that there are, each with arguments of its schema.

Source: llguidance's docs/syntax.md, "Tool calling" and "Special tokens".
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
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
_SHARED = ("$defs", "definitions")
_ALTERNATIVES = ("anyOf", "oneOf")
_DESCRIBING = frozenset({"properties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"})  # an object
_ANY_TEXT = r"/(.|\n)*/"
_TEXT_BUT_JSON = r"/([^\[{\s](.|\n)*)?/"


@dataclass(frozen=True)
class AddedTokens:
    """The tokens that a tokenizer has for whole texts, by these texts: `special` ones, and `ordinary` ones.

    What is ordinary for the tokenizer may not be for llguidance: for some of its versions, whatever stands in
    angle brackets is special. So a grammar names the ordinary ones too.
    """

    special: Mapping[str, int] = field(default_factory=dict)
    ordinary: Mapping[str, int] = field(default_factory=dict)


NO_ADDED_TOKENS = AddedTokens()


def call_grammar(form: CallForm, calling: Calling, tokens: AddedTokens, content: str | None = None) -> Rules:
    """The grammar of an answer, in which `calling` says what may be called.

    `content` is the JSON schema (as JSON text) of an answer without calls, None where that may be any text.
    """
    made = f"call {_more(form, calling)} {_literals(form.after, tokens)}"
    rules = [f"calls: {_literals(form.before, tokens)} {made}"]
    if form.between is not None:
        rules.append(f"between: {_literals(form.between, tokens)}")
    rules.append("call: " + " | ".join(f"call_{place}" for place in range(len(calling.functions))))
    rules += [_call(form, place, function) for place, function in enumerate(calling.functions)]
    start = ["calls"]
    if calling.choice != "required":
        start.append("text" if content is None else f"%json {_with_layout(json.loads(content))}")
        rules.append(f"text: {_spoken(form, tokens)} TEXT")
        rules.append(f"TEXT: {_TEXT_BUT_JSON if form.is_bare else _ANY_TEXT}")
        if content is None and not form.is_bare:
            # Lazy: text ends where the mark comes first, in letters, however long it could go on.
            rest = f"{_literals(form.before[len(form.mark) :], tokens)} {made}"
            rules.append(f"marked[lazy]: TEXT {_quoted(form.mark)}")
            rules.append(f"after_text: {_spoken(form, tokens)} marked {rest} | text calls")
            start.append("after_text")
    return Rules("tools", "\n".join(["%llguidance {}", f"start: {' | '.join(start)}", *rules]))


def _spoken(form: CallForm, tokens: AddedTokens) -> str:
    """What may come in text beside letters: tokens such as `<think>`, but for those of the form."""
    written = (form.before, form.within, form.between or "", form.after)
    ids = [id_ for text, id_ in tokens.ordinary.items() if not any(text in each for each in written)]
    return f"(TEXT? <[{','.join(map(str, ids))}]>)*" if ids else ""


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
    parameters = function.parameters
    return _with_layout({"type": "object", **_closed(parameters, shared=not _is_combined(parameters))})


def _more(form: CallForm, calling: Calling) -> str:
    """More calls after the first, where they may come."""
    several = calling.parallel and form.between is not None
    return f"(between call){{0,{MOST_CALLS - 1}}}" if several else ""


def _literals(text: str, tokens: AddedTokens) -> str:
    """A text as the grammar has it: what has a token of its own by its id, the rest in quotes."""
    named = {**tokens.special, **tokens.ordinary}
    found = sorted((each for each in named if each in text), key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, found)) + ")", text) if found else [text]
    return " ".join(_literal(part, tokens) for part in parts if part)


def _literal(part: str, tokens: AddedTokens) -> str:
    if part in tokens.special:
        return f"<[{tokens.special[part]}]>"
    if part in tokens.ordinary:
        return f"(<[{tokens.ordinary[part]}]> | {_quoted(part)})"
    return _quoted(part)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _with_layout(schema: Mapping[str, Any]) -> str:
    return json.dumps({**schema, "x-guidance": JSON_LAYOUT})


def _closed(schema: Any, *, shared: bool) -> Any:
    """A schema whose objects have no properties but those that it names, unless it says that they may.

    A model that may write what it likes makes up arguments, and no function takes them. `shared`: in what
    others refer to as well.
    """
    if not isinstance(schema, Mapping):
        return schema
    closed = dict(schema)
    if isinstance(closed.get("properties"), Mapping) and _OPEN_KEYS.isdisjoint(closed):
        closed["additionalProperties"] = False
    inner = functools.partial(_closed, shared=shared)
    for key in ("properties", *(_SHARED if shared else ())):
        if isinstance(closed.get(key), Mapping):
            closed[key] = {name: inner(each) for name, each in closed[key].items()}
    # Beside properties an alternative says more of the same object.
    is_one = len(_DESCRIBING & closed.keys()) == 1
    for key in ("prefixItems", *(_ALTERNATIVES if is_one else ())):
        if isinstance(closed.get(key), list):
            closed[key] = [inner(each) for each in closed[key]]
    for key in ("items", "additionalProperties"):
        closed.update({key: inner(closed[key])} if key in closed else {})
    return closed


def _is_combined(schema: Any) -> bool:
    """Whether an object is described in more than one place, which name its properties only together."""
    if isinstance(schema, list):
        return any(map(_is_combined, schema))
    if not isinstance(schema, Mapping):
        return False
    all_of = schema.get("allOf")
    several = len(_DESCRIBING & schema.keys()) > 1 or (isinstance(all_of, list) and len(all_of) > 1)
    return several or any(map(_is_combined, schema.values()))
