"""POST /v1/chat/completions: answers to conversations."""

from __future__ import annotations

import dataclasses

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgephi.server.endpoints.service import Service
from edgephi.server.endpoints.submission import submit
from edgephi.server.http.request_body import read_body
from edgephi.server.images.asked import AskedImages
from edgephi.server.images.room import Place
from edgephi.server.openai.chat.request import ChatRequest, chat_ask
from edgephi.server.openai.chat.tools import trial_rules
from edgephi.server.openai.chat.writer import ChatWriter


def route(service: Service) -> Route:
    """The route of answers to conversations."""

    async def chat(request: Request) -> Response:
        service.check_open()
        with service.image_room.place() as place:
            return await answer(request, place)

    async def answer(request: Request, place: Place) -> Response:
        body = await read_body(request, ChatRequest, service.options.max_body_bytes, images=place)
        adapter = service.asked_adapter(body.model)
        images = AskedImages(service.sight, place)
        ask = chat_ask(
            body,
            service.next_number(),
            images,
            context=service.context,
            system=service.options.system,
            adapter=adapter,
        )
        await service.constraints.check(trial_rules(ask), request.receive)
        ask = dataclasses.replace(ask, images=await images.all_fetched())
        writer = ChatWriter(
            model=service.model_name(adapter),
            context=service.context,
            scored=ask.options.logprobs is not None,
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
            in_old_words=bool(body.functions),
        )
        return submit(request, service, ask, writer, stream=bool(body.stream), place=place)

    return Route("/v1/chat/completions", chat, methods=["POST"])
