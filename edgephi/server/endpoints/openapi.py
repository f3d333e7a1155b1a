"""GET /openapi.json: the API's description."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgephi.server.openai.description import description
from edgephi.server.replies import json_response


def route() -> Route:
    """The route of the description."""

    async def openapi(_request: Request) -> Response:
        return json_response(description())

    return Route("/openapi.json", openapi)
