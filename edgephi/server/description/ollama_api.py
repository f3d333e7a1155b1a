"""Ollama's API, as it is offered here."""

from __future__ import annotations

from typing import Any

from edgephi.server.description.operations import Operations, Streamed
from edgephi.server.ollama.models import LoadedModels, ModelTags, OllamaVersion, ShownModel
from edgephi.server.ollama.request import GenerateRequest, OllamaChatRequest, ShowRequest
from edgephi.server.ollama.response import GenerateResponse, OllamaChatResponse, OllamaError

TYPES = (
    OllamaChatRequest,
    GenerateRequest,
    ShowRequest,
    OllamaChatResponse,
    GenerateResponse,
    ModelTags,
    LoadedModels,
    ShownModel,
    OllamaVersion,
    OllamaError,
)


def ollama_paths() -> dict[str, Any]:
    """The paths of the API."""
    operations = Operations(OllamaError)
    return {
        "/api/version": {"get": operations.read("version", "Ollama's version", OllamaVersion)},
        "/api/tags": {"get": operations.read("tags", "The models", ModelTags)},
        "/api/ps": {"get": operations.read("loaded", "The models that are loaded", LoadedModels)},
        "/api/show": {"post": operations.ask("show", "One model", ShowRequest, ShownModel)},
        "/api/chat": {
            "post": operations.generate(
                "ollamaChat", "Answer a conversation", _streamed(OllamaChatRequest, OllamaChatResponse)
            )
        },
        "/api/generate": {
            "post": operations.generate(
                "generate", "Answer a prompt", _streamed(GenerateRequest, GenerateResponse)
            )
        },
    }


def _streamed(request: type, response: type) -> Streamed:
    stream = f"Unless `stream` is false: lines of JSON, each a {response.__name__} or an OllamaError"
    return Streamed(request, response, "application/x-ndjson", stream)
