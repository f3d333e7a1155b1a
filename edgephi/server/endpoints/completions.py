"""POST /v1/completions: continuations of texts."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgephi.server.endpoints.service import Service
from edgephi.server.endpoints.submission import submit
from edgephi.server.http.request_body import read_body
from edgephi.server.openai.completions.request import CompletionRequest, completion_ask
from edgephi.server.openai.completions.writer import TextWriter


def route(service: Service) -> Route:
    """The route of continuations of texts."""

    async def completions(request: Request) -> Response:
        service.check_open()
        body = await read_body(request, CompletionRequest, service.options.max_body_bytes)
        adapter = service.asked_adapter(body.model)
        ask = completion_ask(body, service.next_number(), context=service.context, adapter=adapter)
        await service.constraints.check(ask.options.rules, request.receive)
        writer = TextWriter(
            model=service.model_name(adapter),
            context=service.context,
            scored=ask.options.logprobs is not None,
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
        )
        return submit(request, service, ask, writer, stream=bool(body.stream))

    return Route("/v1/completions", completions, methods=["POST"])
