"""Responses that are not an answer."""

import msgspec
from starlette.responses import Response

from edgephi.server.ollama.response import OLLAMA, OllamaError
from edgephi.server.refusal import Refusal


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value as a JSON document."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def refusal_response(refusal: Refusal, path: str) -> Response:
    """An error object, in the form of the API that a path belongs to."""
    error = OllamaError(refusal.error.error.message) if path.startswith(OLLAMA) else refusal.error
    return json_response(error, refusal.status, refusal.headers)
