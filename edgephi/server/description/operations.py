"""Operations of an API, as OpenAPI describes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ERRORS = {
    "400": "The request is not understood, asks for what is not offered, or its prompt is past the context",
    "401": "The API key is missing or wrong",
    "403": "The Host or Origin is not one that may ask",
    "404": "There is no such model",
    "408": "The body did not come in time",
    "413": "The body is too large",
    "415": "The body is not JSON",
    "429": "Too many requests wait already: ask again after the seconds in Retry-After",
    "503": "The model is being loaded, the engine is started again, or the server stops",
    "504": "The answer was not finished before the deadline",
}


@dataclass(frozen=True)
class Streamed:
    """How an answer is asked for and given; `stream` says of what its stream consists, and its media type."""

    request: type
    response: type
    media_type: str
    stream: str


@dataclass(frozen=True)
class Operations:
    """Describes those of an API whose errors are of the type `error`."""

    error: type

    def read(
        self, name: str, summary: str, response: type, errors: Iterable[str] = ("401", "403")
    ) -> dict[str, Any]:
        """One that is answered at once."""
        responses = {"200": {"description": "As asked", "content": content_of(response)}}
        return {"operationId": name, "summary": summary, "responses": responses | self.errors(errors)}

    def ask(self, name: str, summary: str, request: type, response: type) -> dict[str, Any]:
        """One that takes a body, and is answered at once."""
        errors = ("400", "401", "403", "404", "408", "413", "415")
        return self.read(name, summary, response, errors) | _body(request)

    def generate(self, name: str, summary: str, generation: Streamed) -> dict[str, Any]:
        """One that the engine answers."""
        operation = self.read(name, summary, generation.response, ERRORS) | _body(generation.request)
        # Without a type: some readers hold it against the whole text, and others against each event.
        stream = {"schema": {"description": generation.stream}}
        operation["responses"]["200"]["content"][generation.media_type] = stream
        return operation

    def errors(self, statuses: Iterable[str]) -> dict[str, Any]:
        """Responses that are no success."""
        return {
            status: {"description": ERRORS[status], "content": content_of(self.error)} for status in statuses
        }


def narrow(properties: dict[str, Any], harmless: Mapping[str, tuple[Any, ...]]) -> None:
    """Say of members that are not offered which values are let through."""
    for name, values in harmless.items():
        if name in properties:
            properties[name] = {"enum": [None, *values], "description": "Not offered"}


def content_of(kind: type) -> dict[str, Any]:
    """A JSON document of a type."""
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}


def _body(kind: type) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content_of(kind)}}
