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
from edgephi.server.refusal import ErrorObject

TYPES = (
    ChatRequest,
    CompletionRequest,
    ChatCompletion,
    ChatChunk,
    TextCompletion,
    ModelList,
    Model,
    ErrorObject,
)


def openai_paths() -> dict[str, Any]:
    """The paths of the API."""
    operations = Operations(ErrorObject)
    name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    one = operations.read("model", "One model", Model, ("401", "403", "404"))
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
    }


def narrow_openai(components: dict[str, Any]) -> None:
    """Say in the types of requests which values are let through."""
    for kind in ("ChatRequest", "CompletionRequest"):
        narrow(components[kind]["properties"], UNSUPPORTED)
    narrow(components["Message"]["properties"], dict.fromkeys(UNSUPPORTED_IN_MESSAGES, ()))
    components["Message"]["properties"]["role"] = {"enum": list(ROLES)}


def _streamed(request: type, response: type, chunk: type) -> Streamed:
    stream = (
        f"With `stream`: server-sent events, each a {chunk.__name__} or an ErrorObject, and at last [DONE]"
    )
    return Streamed(request, response, "text/event-stream", stream)
