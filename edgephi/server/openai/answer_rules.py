"""What an answer is held to: a request's `response_format`, or a member by vLLM's and llama.cpp's names.

Sources: vLLM's `structured_outputs`, and the `guided_*` that it had before; llama.cpp's `grammar` and
`json_schema`, and the `schema` in its `response_format` of the type json_object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgephi.runtime.text.rules import Rules
from edgephi.server.openai.response_format import (
    ANY_OBJECT,
    LARGEST_SCHEMA_BYTES,
    ResponseFormat,
    schema_text,
    text_of_schema,
)
from edgephi.server.refusal import Refusal

Choices = Annotated[list[str], Meta(min_length=1, max_length=1000)]
Schema = dict[str, Any] | str

# All letters that mean something in a regular expression, as the crate `regex` escapes them.
_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$#&\-~]")


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """vLLM's rules for an answer, of which one can be given. Not of OpenAI's API."""

    json: Schema | None = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None


class RuledRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The members of a request that hold its answer to rules. One can be given."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    grammar: str | None = None


def answer_rules(request: RuledRequest) -> Rules | None:
    """What the answer is held to; None when it is free. Raises Refusal for more than one thing."""
    given = dict(_given(request))
    if len(given) > 1:
        one, other, *_ = given
        raise Refusal(400, f"expected one kind of rules for an answer, found {one} and {other}", param=other)
    for place, rules in given.items():
        if len(rules.text.encode()) > LARGEST_SCHEMA_BYTES:
            raise Refusal(400, f"expected {rules.name} of at most {LARGEST_SCHEMA_BYTES} bytes", param=place)
        return rules
    return None


def _given(request: RuledRequest) -> Iterator[tuple[str, Rules]]:
    """All rules, by the members that they stand in."""
    schema = schema_text(request.response_format)
    if schema is not None:
        yield "response_format", Rules("json_schema", schema)
    outputs = request.structured_outputs or StructuredOutputs()
    for place, value in {
        "structured_outputs.json": outputs.json,
        "guided_json": request.guided_json,
        "json_schema": request.json_schema,
    }.items():
        if value is not None:
            yield (
                place,
                Rules("json_schema", value if isinstance(value, str) else text_of_schema(value, place)),
            )
    if outputs.json_object:
        yield "structured_outputs.json_object", Rules("json_schema", ANY_OBJECT)
    for place, regex in {
        "structured_outputs.regex": outputs.regex,
        "guided_regex": request.guided_regex,
    }.items():
        if regex is not None:
            yield place, Rules("regex", regex)
    for place, choices in {
        "structured_outputs.choice": outputs.choice,
        "guided_choice": request.guided_choice,
    }.items():
        if choices is not None:
            yield place, Rules("regex", "|".join(_SPECIAL.sub(r"\\\g<0>", choice) for choice in choices))
    for place, grammar in {
        "structured_outputs.grammar": outputs.grammar,
        "guided_grammar": request.guided_grammar,
        "grammar": request.grammar,
    }.items():
        if grammar is not None:
            yield place, Rules("grammar", grammar)
