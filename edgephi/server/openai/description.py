"""The description of the API at /openapi.json: OpenAPI 3.1, from the types that requests are read with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

import edgephi
from edgephi.server.endpoints.monitoring import Health
from edgephi.server.openai.chat.messages import ROLES, UNSUPPORTED_IN_MESSAGES
from edgephi.server.openai.chat.request import ChatRequest
from edgephi.server.openai.chat.response import ChatChunk, ChatCompletion
from edgephi.server.openai.completions.request import CompletionRequest
from edgephi.server.openai.completions.response import TextCompletion
from edgephi.server.openai.models import Model, ModelList
from edgephi.server.openai.request import UNSUPPORTED
from edgephi.server.refusal import ErrorObject

_TYPES = (
    ChatRequest,
    CompletionRequest,
    ChatCompletion,
    ChatChunk,
    TextCompletion,
    ModelList,
    Model,
    Health,
    ErrorObject,
)
_ERRORS = {
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


def description() -> dict[str, Any]:
    """The document."""
    _, components = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    for kind in ("ChatRequest", "CompletionRequest"):
        _narrow(components[kind]["properties"], UNSUPPORTED)
    _narrow(components["Message"]["properties"], dict.fromkeys(UNSUPPORTED_IN_MESSAGES, ()))
    components["Message"]["properties"]["role"] = {"enum": list(ROLES)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgephi",
            "version": edgephi.__version__,
            "description": "One model on this device, by the API of OpenAI.",
        },
        "paths": {
            "/v1/models": {"get": _operation("models", "The model", ("200", ModelList), ("401", "403"))},
            "/v1/models/{model}": {
                "get": {
                    **_operation("model", "One model", ("200", Model), ("401", "403", "404")),
                    "parameters": [
                        {
                            "name": "model",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string", "minLength": 1},
                        }
                    ],
                }
            },
            "/v1/chat/completions": {
                "post": _generation("chat", "Answer a conversation", ChatRequest, ChatCompletion, ChatChunk)
            },
            "/v1/completions": {
                "post": _generation(
                    "complete", "Continue a text", CompletionRequest, TextCompletion, TextCompletion
                )
            },
            "/health": {
                "get": {
                    **_operation("health", "Whether requests are answered", ("200", Health), ("403",)),
                    "security": [],
                }
            },
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "Numbers for Prometheus",
                    "responses": {
                        "200": {
                            "description": "As text",
                            "content": {"text/plain": {"schema": {"type": "string"}}},
                        },
                        **_errors(("401", "403")),
                    },
                }
            },
        },
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _narrow(properties: dict[str, Any], harmless: Mapping[str, tuple[Any, ...]]) -> None:
    """Say of members that are not offered which values are let through."""
    for name, values in harmless.items():
        if name in properties:
            properties[name] = {"enum": [None, *values], "description": "Not offered"}


def _operation(name: str, summary: str, success: tuple[str, type], errors: tuple[str, ...]) -> dict[str, Any]:
    status, kind = success
    responses = {status: {"description": "As asked", "content": _json(kind)}, **_errors(errors)}
    if kind is Health:
        responses["503"] = {"description": "Not ready", "content": _json(Health)}
    return {"operationId": name, "summary": summary, "responses": responses}


def _generation(name: str, summary: str, request: type, response: type, chunk: type) -> dict[str, Any]:
    operation = _operation(name, summary, ("200", response), tuple(_ERRORS))
    operation["requestBody"] = {"required": True, "content": _json(request)}
    # Without a type: some readers hold it against the whole text, and others against each event.
    operation["responses"]["200"]["content"]["text/event-stream"] = {
        "schema": {
            "description": f"With `stream`: server-sent events, each a {chunk.__name__} or an ErrorObject, "
            "and at last [DONE]",
        }
    }
    return operation


def _errors(statuses: tuple[str, ...]) -> dict[str, Any]:
    return {status: {"description": _ERRORS[status], "content": _json(ErrorObject)} for status in statuses}


def _json(kind: type) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
