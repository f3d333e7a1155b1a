"""GET /health and /metrics, for those who watch over the server."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgephi.server.endpoints.service import Service
from edgephi.server.metrics import CONTENT_TYPE
from edgephi.server.replies import json_response


class Health(msgspec.Struct, frozen=True):
    """`status`: "ready", "starting", "restarting" or "stopping"; `waiting`: requests in the queue.

    `compiling`: JSON schemas that are tried before their requests join the queue.
    """

    status: str
    waiting: int
    compiling: int
    restarts: int


def routes(service: Service) -> list[Route]:
    """The routes of how the server is."""

    async def health(_request: Request) -> Response:
        supervisor = service.supervisor
        status = "restarting" if supervisor.was_ready else "starting"
        if service.stopping:
            status = "stopping"
        elif supervisor.ready is not None:
            status = "ready"
        document = Health(status, len(service.queue), service.constraints.compiling, supervisor.restarts)
        return json_response(document, 200 if status == "ready" else 503, {"cache-control": "no-store"})

    async def metrics(_request: Request) -> Response:
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    return [Route("/health", health), Route("/metrics", metrics)]
