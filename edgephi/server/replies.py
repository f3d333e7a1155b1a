"""Responses that are not an answer."""

import msgspec
from starlette.responses import Response

from edgephi.server.refusal import Refusal


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value as a JSON document."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def refusal_response(refusal: Refusal) -> Response:
    """An error object."""
    return json_response(refusal.error, refusal.status, refusal.headers)
