"""OpenAI's API, as it is offered here."""

from __future__ import annotations

from typing import Any

from edgephi.server.description.operations import Operations, Streamed, narrow
from edgephi.server.openai.chat.messages import ROLES, UNSUPPORTED_IN_MESSAGES
from edgephi.server.openai.chat.request import ChatRequest
from edgephi.server.openai.chat.response import ChatChunk, ChatCompletion
from edgephi.server.openai.completions.request import CompletionRequest
from edgephi.server.openai.completions.response import TextCompletion
from edgephi.server.openai.models import Model, ModelList
from edgephi.server.openai.request import UNSUPPORTED
from edgephi.server.openai.responses.request import UNSUPPORTED_IN_RESPONSES, ResponseRequest
from edgephi.server.openai.responses.response import DeletedResponse, ModelResponse
from edgephi.server.refusal import ErrorObject

TYPES = (
    ChatRequest,
    CompletionRequest,
    ChatCompletion,
    ChatChunk,
    TextCompletion,
    ResponseRequest,
    ModelResponse,
    DeletedResponse,
    ModelList,
    Model,
    ErrorObject,
)

_NAMED = "With `stream`: server-sent events with the names of OpenAI's API; `response.completed` is the last"


def openai_paths() -> dict[str, Any]:
    """The paths of the API."""
    operations = Operations(ErrorObject)
    name = _in_path("model")
    missing = ("401", "403", "404")
    one = operations.read("model", "One model", Model, missing)
    return {
        "/v1/models": {"get": operations.read("models", "The model", ModelList)},
        "/v1/models/{model}": {"get": one | {"parameters": [name]}},
        "/v1/chat/completions": {
            "post": operations.generate(
                "chat", "Answer a conversation", _streamed(ChatRequest, ChatCompletion, ChatChunk)
            )
        },
        "/v1/completions": {
            "post": operations.generate(
                "complete", "Continue a text", _streamed(CompletionRequest, TextCompletion, TextCompletion)
            )
        },
        "/v1/responses": {
            "post": operations.generate(
                "respond",
                "Answer a conversation, which may be known by the id of a response",
                Streamed(ResponseRequest, ModelResponse, "text/event-stream", _NAMED),
            )
        },
        "/v1/responses/{id}": {
            "get": operations.read("response", "A response that is kept", ModelResponse, missing)
            | {"parameters": [_in_path("id")]},
            "delete": operations.read("forget", "Keep a response no more", DeletedResponse, missing)
            | {"parameters": [_in_path("id")]},
        },
    }


def narrow_openai(components: dict[str, Any]) -> None:
    """Say in the types of requests which values are let through."""
    for kind in ("ChatRequest", "CompletionRequest"):
        narrow(components[kind]["properties"], UNSUPPORTED)
    narrow(components["ResponseRequest"]["properties"], UNSUPPORTED_IN_RESPONSES)
    narrow(components["Message"]["properties"], dict.fromkeys(UNSUPPORTED_IN_MESSAGES, ()))
    components["Message"]["properties"]["role"] = {"enum": list(ROLES)}


def _in_path(name: str) -> dict[str, Any]:
    """A parameter that is part of a path."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _streamed(request: type, response: type, chunk: type) -> Streamed:
    stream = (
        f"With `stream`: server-sent events, each a {chunk.__name__} or an ErrorObject, and at last [DONE]"
    )
    return Streamed(request, response, "text/event-stream", stream)
