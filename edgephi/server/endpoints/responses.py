"""/v1/responses: answers in the newer words of OpenAI's API, which can be gone on from by their ids."""

from __future__ import annotations

import dataclasses
import time

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgephi.server.endpoints.service import Service
from edgephi.server.endpoints.submission import submit
from edgephi.server.http.request_body import read_body
from edgephi.server.images.asked import AskedImages
from edgephi.server.images.room import Place
from edgephi.server.openai.chat.tools import trial_rules
from edgephi.server.openai.responses.input_items import messages_of
from edgephi.server.openai.responses.kept import KeptResponses, Talk
from edgephi.server.openai.responses.request import (
    ResponseRequest,
    TextConfig,
    refuse_unsupported_in_responses,
    response_ask,
)
from edgephi.server.openai.responses.response import DeletedResponse, ModelResponse
from edgephi.server.openai.responses.writer import ResponseWriter, response_id
from edgephi.server.refusal import Refusal
from edgephi.server.replies import json_response


def routes(service: Service) -> list[Route]:
    """The routes of responses, and what is kept of them."""
    kept = KeptResponses()

    async def create(request: Request) -> Response:
        service.check_open()
        with service.image_room.place() as place:
            return await answer(request, place)

    async def answer(request: Request, place: Place) -> Response:
        body = await read_body(request, ResponseRequest, service.options.max_body_bytes, images=place)
        adapter = service.asked_adapter(body.model)
        refuse_unsupported_in_responses(body)
        before = kept.before(body.previous_response_id)
        asked = AskedImages(service.sight, place, before.images)
        messages = (*before.messages, *messages_of(body.input, asked))
        ask = response_ask(
            body,
            service.next_number(),
            messages,
            context=service.context,
            system=service.options.system,
            adapter=adapter,
        )
        await service.constraints.check(trial_rules(ask), request.receive)
        images = await asked.all_fetched()
        ask = dataclasses.replace(ask, images=images)
        response = _begun(body, service.model_name(adapter))
        writer = ResponseWriter(
            response,
            context=service.context,
            scored=ask.options.logprobs is not None,
            on_end=lambda done: kept.keep(done, Talk(messages, images)) if done.store else None,
        )
        return submit(request, service, ask, writer, stream=bool(body.stream), place=place)

    async def retrieve(request: Request) -> Response:
        found = kept.get(request.path_params["id"])
        if found is None:
            raise _not_kept(request)
        return json_response(msgspec.Raw(found.response))

    async def delete(request: Request) -> Response:
        id_ = request.path_params["id"]
        if not kept.forget(id_):
            raise _not_kept(request)
        return json_response(DeletedResponse(id_))

    return [
        Route("/v1/responses", create, methods=["POST"]),
        Route("/v1/responses/{id}", retrieve, methods=["GET"]),
        Route("/v1/responses/{id}", delete, methods=["DELETE"]),
    ]


def _begun(body: ResponseRequest, model: str) -> ModelResponse:
    """The response before there is anything in it: what it was asked with."""
    text = (body.text or TextConfig()).format
    return ModelResponse(
        id=response_id(),
        created_at=int(time.time()),
        model=model,
        status="in_progress",
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        store=body.store is not False,
        temperature=body.temperature or 0.0,
        text={"format": {"type": "text"} if text is None else text},
        tool_choice=body.tool_choice or "auto",
        tools=tuple(body.tools or ()),
        top_logprobs=body.top_logprobs,
        top_p=1.0 if body.top_p is None else body.top_p,
        user=body.user,
    )


def _not_kept(request: Request) -> Refusal:
    id_ = request.path_params["id"]
    return Refusal(404, f"the response {id_[:100]!r} is not kept here", param="id", code="not_found")
