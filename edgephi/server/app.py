"""The routes: OpenAI's API, health, metrics, the API's description, and the page."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from edgephi.bundle.manifest import Manifest
from edgephi.bundle.switched_adapter import model_name
from edgephi.server.admission import Job, Queue
from edgephi.server.answers import JobResponse
from edgephi.server.engine.messages import Ask, End
from edgephi.server.engine.supervisor import Supervisor
from edgephi.server.guard import AccessLog, Gate, GateOptions
from edgephi.server.log import Log
from edgephi.server.metrics import CONTENT_TYPE, Metrics
from edgephi.server.openai.description import description
from edgephi.server.openai.requests import ChatRequest, CompletionRequest, chat_ask, completion_ask
from edgephi.server.openai.responses import Health, Model, ModelList, ServedFacts
from edgephi.server.openai.writers import ChatWriter, TextWriter, Writer
from edgephi.server.page.served import routes as page_routes
from edgephi.server.refusal import CLIENT_GONE, Refusal
from edgephi.server.replies import json_response, refusal_response
from edgephi.server.schema_trials import SchemaTrials

_BODY_SECONDS = 60.0  # for a client to send all of a request
_LATE_SECONDS = 10.0  # after the deadline, for a client to take what it is told about it

_JSON_TYPE = re.compile(r"application/(?:[a-z0-9.!#$&^_-]+\+)?json")

Body = TypeVar("Body", ChatRequest, CompletionRequest)


@dataclass(frozen=True)
class ServiceOptions:
    """How requests are treated. Seconds and bytes; `deadline_seconds` None: no deadline."""

    max_body_bytes: int
    deadline_seconds: float | None
    system: str | None


@dataclass
class Service:
    """All that the routes work with."""

    manifest: Manifest
    options: ServiceOptions
    queue: Queue
    supervisor: Supervisor
    schemas: SchemaTrials
    metrics: Metrics
    log: Log
    stopping: bool = False
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def context(self) -> int:
        """The most tokens of prompt and answer together."""
        ready = self.supervisor.ready
        return self.manifest.limits.context if ready is None else ready.context

    def models(self) -> tuple[Model, ...]:
        """The bundle's model and, as models of their own, that with each of its adapters."""
        names = ("", *(adapter.name for adapter in self.manifest.adapters))
        return tuple(map(self.model, names))

    def model(self, adapter: str) -> Model:
        """The model with an adapter or, without a name, the one that answers where none is named."""
        manifest, ready = self.manifest, self.supervisor.ready
        facts = ServedFacts(
            context=self.context,
            engine=manifest.target.engine if ready is None else f"{ready.engine} {ready.version}",
            provider=manifest.target.provider if ready is None else ready.provider,
            parameters=manifest.model.parameters,
            bundle=manifest.name,
        )
        return Model(self.model_name(adapter), _unix_time(manifest.created), facts)

    def model_name(self, adapter: str) -> str:
        """What the model with an adapter is called, or without one."""
        return model_name(self.manifest.name, adapter)

    def asked_adapter(self, asked: str | None) -> str:
        """The adapter that the name of a model asks for, or "". Raises Refusal (404) for another model."""
        manifest = self.manifest
        if not asked:
            return ""
        for name in (manifest.name, manifest.model.id):
            adapters = {model_name(name, adapter.name): adapter.name for adapter in manifest.adapters}
            if asked in {name, *adapters}:
                return adapters.get(asked, "")
        known = " or ".join(repr(each.id) for each in self.models())
        raise Refusal(
            404, f"expected the model {known}, found {asked[:100]!r}", param="model", code="model_not_found"
        )

    def check_open(self) -> None:
        """Raise Refusal (503) when nothing can be answered yet, or no more."""
        if self.stopping:
            raise Refusal(503, "the server is stopping", code="stopping", retry_after=5)
        if not self.supervisor.was_ready:
            raise Refusal(503, "the model is being loaded", code="loading", retry_after=2)

    def next_number(self) -> int:
        """The id of the next request."""
        return next(self._numbers)


def make_app(service: Service, gate: GateOptions) -> ASGIApp:
    """The whole application, for uvicorn."""

    async def models(_request: Request) -> Response:
        return json_response(ModelList(service.models()))

    async def one_model(request: Request) -> Response:
        return json_response(service.model(service.asked_adapter(request.path_params["model"])))

    async def chat(request: Request) -> Response:
        body = await _read(request, ChatRequest, service)
        adapter = service.asked_adapter(body.model)
        ask = chat_ask(
            body,
            service.next_number(),
            context=service.context,
            system=service.options.system,
            adapter=adapter,
        )
        await service.schemas.check(ask.options.json_schema, request.receive)
        writer = ChatWriter(
            model=service.model_name(adapter),
            context=service.context,
            scored=ask.options.logprobs is not None,
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
        )
        return _submit(request, service, ask, writer, stream=bool(body.stream))

    async def completions(request: Request) -> Response:
        body = await _read(request, CompletionRequest, service)
        adapter = service.asked_adapter(body.model)
        ask = completion_ask(body, service.next_number(), context=service.context, adapter=adapter)
        writer = TextWriter(
            model=service.model_name(adapter),
            context=service.context,
            scored=ask.options.logprobs is not None,
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
        )
        return _submit(request, service, ask, writer, stream=bool(body.stream))

    async def health(_request: Request) -> Response:
        supervisor = service.supervisor
        status = "restarting" if supervisor.was_ready else "starting"
        if service.stopping:
            status = "stopping"
        elif supervisor.ready is not None:
            status = "ready"
        document = Health(status, len(service.queue), service.schemas.compiling, supervisor.restarts)
        return json_response(document, 200 if status == "ready" else 503, {"cache-control": "no-store"})

    async def metrics(_request: Request) -> Response:
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def openapi(_request: Request) -> Response:
        return json_response(description())

    routes = [
        Route("/v1/models/", models),
        Route("/v1/models", models),
        Route("/v1/models/{model:path}", one_model),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/openapi.json", openapi),
        *page_routes(),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={Refusal: _say_refusal, HTTPException: _say_http_exception},
    )
    app.router.redirect_slashes = False
    guarded: ASGIApp = Gate(app, gate)
    if gate.origins:
        guarded = CORSMiddleware(
            guarded,
            allow_origins=list(gate.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's client for browsers tells of itself in a dozen of its own
            expose_headers=["retry-after", "x-request-id"],
        )
    paths = {route.endpoint: route.path for route in routes}
    return AccessLog(guarded, partial(_note, service, paths), service.log.bug)


async def _read(request: Request, kind: type[Body], service: Service) -> Body:
    """The body of a request. Raises Refusal when it is too large, too slow, or not what it should be."""
    limit = service.options.max_body_bytes
    service.check_open()
    _check_content_type(request.headers.getlist("content-type"))
    if "content-encoding" in request.headers:
        raise Refusal(415, "expected content without an encoding", param="content-encoding")
    too_large = Refusal(413, f"expected a body of at most {limit} bytes, found more", code="body_too_large")
    announced = request.headers.get("content-length", "0")
    if len(announced) > 18 or int(announced) > limit:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                data += part
                if len(data) > limit:
                    raise too_large
    except TimeoutError:
        raise Refusal(408, f"expected the whole body within {_BODY_SECONDS:.0f} s") from None
    except ClientDisconnect:
        raise Refusal(CLIENT_GONE, "the client did not wait") from None
    try:
        body = msgspec.json.decode(bytes(data), type=kind)
    except msgspec.ValidationError as cause:
        message, _, place = str(cause).partition(" - at ")
        param = place.strip("`").removeprefix("$.") or _unknown_field(message)
        raise Refusal(400, f"{param}: {message}" if place else message, param=param or None) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as cause:
        raise Refusal(400, f"expected JSON in UTF-8, found {cause}", code="invalid_json") from None
    service.asked_adapter(body.model)
    return body


def _check_content_type(given: list[str]) -> None:
    """Raise Refusal (415) unless a body is called JSON.

    None at all, and the types of forms and plain text, are what a browser sends for a page of any site
    without asking us first: taking them for JSON would let every page use the model.
    """
    kinds = [each.partition(";")[0].strip().lower() for each in given]
    if len(kinds) != 1 or not _JSON_TYPE.fullmatch(kinds[0]):
        found = repr(", ".join(kinds)[:100]) if kinds else "none"
        raise Refusal(
            415, f"expected the header Content-Type: application/json, found {found}", param="content-type"
        )


def _unknown_field(message: str) -> str:
    """The member that msgspec complains about at the top of a document."""
    before, _, rest = message.partition("unknown field `")
    return rest.partition("`")[0] if before else ""


def _submit(request: Request, service: Service, ask: Ask, writer: Writer, *, stream: bool) -> Response:
    """Let a request wait for the engine. Raises Refusal when too many wait."""
    service.check_open()
    job = Job(ask)
    service.queue.enter(job)
    request.state.job = job
    metrics = service.metrics
    timers: list[asyncio.TimerHandle] = []
    seconds = service.options.deadline_seconds
    if seconds is not None:
        loop = asyncio.get_running_loop()
        late = Refusal(504, f"the answer was not finished within {seconds:g} s", code="deadline")
        timers = [
            loop.call_later(seconds, service.supervisor.abandon, job, late),
            loop.call_later(seconds + _LATE_SECONDS, request.state.connection.abort),
        ]

    def delivered(end: End, blocked_seconds: float) -> None:
        metrics.answer_delivered(job, end, time.monotonic() - job.arrived, blocked_seconds)

    def over(refusal: Refusal) -> None:
        for timer in timers:
            timer.cancel()
        service.supervisor.abandon(job, refusal)

    return JobResponse(
        job, writer, stream=stream, over=over, piece_delivered=metrics.piece_delivered, delivered=delivered
    )


async def _say_refusal(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)  # noqa: S101 - for the type checker
    request.state.ended_as = refusal.status
    return refusal_response(refusal)


async def _say_http_exception(request: Request, cause: Exception) -> Response:
    """What Starlette's router refuses: a path or a method that is not known."""
    assert isinstance(cause, HTTPException)  # noqa: S101 - for the type checker
    path, method = request.url.path[:200], request.method
    if cause.status_code == 404:
        refusal = Refusal(404, f"there is nothing at {path!r}", code="unknown_url")
    elif cause.status_code == 405:
        refusal = Refusal(405, f"{path!r} does not take {method}", code="wrong_method")
    else:
        refusal = Refusal(cause.status_code, cause.detail)
    response = refusal_response(refusal)
    response.headers.update(cause.headers or {})
    return response


def _note(service: Service, paths: Mapping[Any, str], scope: Scope, status: int, seconds: float) -> None:
    """Count and log a request that has ended. `paths` are those of the routes, by their functions."""
    service.metrics.request_ended(paths.get(scope.get("endpoint"), "other"), status)
    facts: dict[str, object] = {
        "client": scope["client"][0] if scope["client"] else "-",
        "method": scope["method"],
        "path": scope["path"][:200],
        "status": status,
        "seconds": round(seconds, 3),
        "id": scope["state"]["request_id"],
    }
    job = scope["state"].get("job")
    if isinstance(job, Job):
        facts |= _job_facts(job, service.log)
    service.log.request(facts)


def _job_facts(job: Job, log: Log) -> dict[str, object]:
    facts: dict[str, object] = {"queue_seconds": round(job.queue_seconds, 3)}
    if job.end is not None:
        facts |= {
            "prompt_tokens": job.end.prompt_tokens,
            "reused_tokens": job.end.reused_tokens,
            "generated_tokens": job.end.generated_tokens,
        }
    if log.prompts:
        facts["prompt"] = job.ask.text if job.ask.messages is None else list(job.ask.messages)
    return facts


def _unix_time(created: str) -> int:
    """Seconds since 1970 of a manifest's date; 0 when it is not one."""
    with contextlib.suppress(ValueError):
        return int(datetime.fromisoformat(created).timestamp())
    return 0
