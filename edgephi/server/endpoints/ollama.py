"""Ollama's API, where it is offered: /api/chat, /api/generate, and what clients ask about the models."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgephi.server.endpoints.service import Service
from edgephi.server.endpoints.submission import submit
from edgephi.server.engine.messages import Ask
from edgephi.server.http.request_body import read_body
from edgephi.server.images.asked import AskedImages
from edgephi.server.images.room import Place
from edgephi.server.ollama.models import (
    LoadedModels,
    ModelTags,
    OllamaVersion,
    listed_model,
    loaded_model,
    shown_model,
)
from edgephi.server.ollama.request import (
    GenerateRequest,
    OllamaChatRequest,
    OllamaRequest,
    ShowRequest,
    chat_ask,
    generate_ask,
)
from edgephi.server.ollama.writer import OllamaWriter
from edgephi.server.openai.chat.tools import trial_rules
from edgephi.server.refusal import Refusal
from edgephi.server.replies import json_response

Body = TypeVar("Body", OllamaChatRequest, GenerateRequest)

_LATEST = ":latest"


def routes(service: Service) -> list[Route]:
    """All of them."""

    async def tags(_request: Request) -> Response:
        models = tuple(listed_model(service.manifest, name) for name in _names(service))
        return json_response(ModelTags(models))

    async def loaded(_request: Request) -> Response:
        names = _names(service) if service.supervisor.ready is not None else []
        models = tuple(loaded_model(service.manifest, name, service.context) for name in names)
        return json_response(LoadedModels(models))

    async def show(request: Request) -> Response:
        body = await _body(request, ShowRequest, service)
        name = body.model or body.name
        if not name:
            raise Refusal(400, "expected the name of a model, found none", param="model")
        _adapter(service, name)
        return json_response(shown_model(service.manifest, name, service.context))

    async def version(_request: Request) -> Response:
        return json_response(OllamaVersion())

    async def chat(request: Request) -> Response:
        with service.image_room.place() as place:
            return await answer_chat(request, place)

    async def answer_chat(request: Request, place: Place) -> Response:
        body, adapter = await _read(request, OllamaChatRequest, service, place)
        if not body.messages:
            return _loaded(body, chat=True)
        images = AskedImages(service.sight, place)
        ask = chat_ask(
            body,
            service.next_number(),
            images,
            context=service.context,
            system=service.options.system,
            adapter=adapter,
        )
        ask = dataclasses.replace(ask, images=await images.all_fetched())
        return await _answer(request, service, ask, _Form(body, chat=True, place=place))

    async def generate(request: Request) -> Response:
        with service.image_room.place() as place:
            return await answer_prompt(request, place)

    async def answer_prompt(request: Request, place: Place) -> Response:
        body, adapter = await _read(request, GenerateRequest, service, place)
        if not body.prompt and not body.images:
            return _loaded(body, chat=False)
        images = AskedImages(service.sight, place)
        ask = generate_ask(
            body,
            service.next_number(),
            images,
            context=service.context,
            system=service.options.system,
            adapter=adapter,
        )
        ask = dataclasses.replace(ask, images=await images.all_fetched())
        return await _answer(request, service, ask, _Form(body, chat=False, place=place))

    return [
        Route("/api/tags", tags),
        Route("/api/ps", loaded),
        Route("/api/show", show, methods=["POST"]),
        Route("/api/version", version),
        Route("/api/chat", chat, methods=["POST"]),
        Route("/api/generate", generate, methods=["POST"]),
    ]


@dataclass(frozen=True)
class _Form:
    """How an answer is given: to a chat or, `chat` False, to a prompt; `place` is where its images are."""

    body: OllamaRequest
    chat: bool
    place: Place


async def _read(request: Request, kind: type[Body], service: Service, place: Place) -> tuple[Body, str]:
    """The body of a request, and the adapter that its model names. Raises Refusal."""
    service.check_open()
    body = await _body(request, kind, service, place)
    return body, _adapter(service, body.model)


async def _body(request: Request, kind: type[Any], service: Service, place: Place | None = None) -> Any:
    """A body, also one that its client does not call JSON.

    Some of Ollama's clients say nothing. A web page's browser could say nothing too, but says of which site
    the page is, and the gate looks at that.
    """
    return await read_body(request, kind, service.options.max_body_bytes, images=place, may_lack_type=True)


async def _answer(request: Request, service: Service, ask: Ask, form: _Form) -> Response:
    """Let a request wait for the engine. Raises Refusal."""
    await service.constraints.check(trial_rules(ask), request.receive)
    body = form.body
    writer = OllamaWriter(model=body.model, chat=form.chat, scored=bool(body.logprobs))
    return submit(request, service, ask, writer, stream=body.stream is not False, place=form.place)


def _loaded(body: OllamaRequest, *, chat: bool) -> Response:
    """Nothing was asked: clients load a model so, before they need it."""
    return json_response(OllamaWriter(model=body.model, chat=chat, scored=False).loaded())


def _names(service: Service) -> list[str]:
    """The models' names as Ollama has them: each with a tag."""
    return [name if ":" in name else name + _LATEST for name in (model.id for model in service.models())]


def _adapter(service: Service, model: str) -> str:
    """The adapter that a model's name asks for, or "". Raises Refusal (404) for another model."""
    try:
        return service.asked_adapter(model)
    except Refusal:
        if not model.endswith(_LATEST):
            raise
        return service.asked_adapter(model.removesuffix(_LATEST))
