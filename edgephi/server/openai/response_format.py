"""What an answer must look like: the member `response_format`, and the JSON schema that it comes to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgephi.server.refusal import Refusal

ANY_OBJECT = '{"type":"object"}'
LARGEST_SCHEMA_BYTES = 1 << 16
_DEEPEST_SCHEMA = 32


class JsonSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The schema that an answer must be valid against."""

    name: Annotated[str, Meta(min_length=1, max_length=64)] = "answer"
    schema: dict[str, Any] = {}
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an answer must look like: anything, any JSON object, or JSON of a schema.

    `schema` with the type json_object is llama.cpp's way to give one.
    """

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema: dict[str, Any] | None = None


def schema_text(format_: ResponseFormat | None) -> str | None:
    """The JSON schema, as text, that an answer must follow; None when it is free."""
    if format_ is None or format_.type == "text":
        return None
    if format_.type == "json_object":
        return (
            ANY_OBJECT if format_.schema is None else text_of_schema(format_.schema, "response_format.schema")
        )
    place = "response_format.json_schema"
    if format_.json_schema is None:
        raise Refusal(400, "expected json_schema with the type 'json_schema'", param=place)
    return text_of_schema(format_.json_schema.schema, place)


def text_of_schema(schema: dict[str, Any], place: str) -> str:
    """A schema as text; `place` is the member that it stands in. Raises Refusal for one that is too large."""
    if _depth(schema) > _DEEPEST_SCHEMA:
        raise Refusal(400, f"expected a schema of at most {_DEEPEST_SCHEMA} levels", param=place)
    text = msgspec.json.encode(schema).decode()
    if len(text) > LARGEST_SCHEMA_BYTES:
        raise Refusal(400, f"expected a schema of at most {LARGEST_SCHEMA_BYTES} bytes", param=place)
    return text


def _depth(value: Any) -> int:
    """Levels of lists and objects inside each other, without recursion: the data is a stranger's."""
    depth, level = 0, [value]
    while level and len(level) < LARGEST_SCHEMA_BYTES:  # each takes two bytes: the next check finds it
        depth += 1
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
    return depth
