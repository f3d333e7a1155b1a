"""GET /v1/models, and one of them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgephi.server.endpoints.service import Service
from edgephi.server.openai.models import ModelList
from edgephi.server.replies import json_response


def routes(service: Service) -> list[Route]:
    """The routes of what can be asked."""

    async def models(_request: Request) -> Response:
        return json_response(ModelList(service.models()))

    async def one_model(request: Request) -> Response:
        return json_response(service.model(service.asked_adapter(request.path_params["model"])))

    return [
        Route("/v1/models/", models),
        Route("/v1/models", models),
        Route("/v1/models/{model:path}", one_model),
    ]
