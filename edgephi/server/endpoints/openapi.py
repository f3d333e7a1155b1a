"""GET /openapi.json: the API's description."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgephi.server.description.document import description
from edgephi.server.replies import json_response


def route(*, ollama: bool) -> Route:
    """The route of the description, of Ollama's API too where that is offered."""

    async def openapi(_request: Request) -> Response:
        return json_response(description(ollama=ollama))

    return Route("/openapi.json", openapi)
