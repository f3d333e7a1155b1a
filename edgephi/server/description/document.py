"""The whole document."""

from __future__ import annotations

from typing import Any

import msgspec

import edgephi
from edgephi.server.description import ollama_api, openai_api
from edgephi.server.description.operations import Operations, content_of
from edgephi.server.endpoints.monitoring import Health
from edgephi.server.refusal import ErrorObject


def description(*, ollama: bool = False) -> dict[str, Any]:
    """What is offered: OpenAI's API, what watches over the server, and Ollama's API where it is spoken."""
    types = (*openai_api.TYPES, Health, *(ollama_api.TYPES if ollama else ()))
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    openai_api.narrow_openai(components)
    paths = openai_api.openai_paths() | _monitoring_paths()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgephi",
            "version": edgephi.__version__,
            "description": "One model on this device, by the API of OpenAI.",
        },
        "paths": paths | ollama_api.ollama_paths() if ollama else paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _monitoring_paths() -> dict[str, Any]:
    operations = Operations(ErrorObject)
    health = operations.read("health", "Whether requests are answered", Health, ("403",))
    health["responses"]["503"] = {"description": "Not ready", "content": content_of(Health)}
    metrics = {
        "operationId": "metrics",
        "summary": "Numbers for Prometheus",
        "responses": {
            "200": {"description": "As text", "content": {"text/plain": {"schema": {"type": "string"}}}},
            **operations.errors(("401", "403")),
        },
    }
    return {"/health": {"get": health | {"security": []}}, "/metrics": {"get": metrics}}
