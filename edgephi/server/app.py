"""The application: all routes behind one gate, and what is noted of each request."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Scope

from edgephi.server.admission import Job
from edgephi.server.endpoints import chat, completions, models, monitoring, ollama, openapi, responses
from edgephi.server.endpoints.service import Service
from edgephi.server.guard import AccessLog, Gate, GateOptions
from edgephi.server.log import Log
from edgephi.server.page.served import routes as page_routes
from edgephi.server.refusal import Refusal
from edgephi.server.replies import refusal_response


def make_app(service: Service, gate: GateOptions) -> ASGIApp:
    """The whole application, for uvicorn."""
    routes = [
        *models.routes(service),
        chat.route(service),
        completions.route(service),
        *responses.routes(service),
        *monitoring.routes(service),
        *(ollama.routes(service) if service.options.ollama else []),
        openapi.route(ollama=service.options.ollama),
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
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],  # OpenAI's client for browsers tells of itself in a dozen of its own
            expose_headers=["retry-after", "x-request-id"],
        )
    paths = {route.endpoint: route.path for route in routes}
    return AccessLog(guarded, partial(_note, service, paths), service.log.bug)


async def _say_refusal(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)  # noqa: S101 - for the type checker
    request.state.ended_as = refusal.status
    return refusal_response(refusal, request.url.path)


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
    response = refusal_response(refusal, path)
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
        facts["prompt"] = _said_by_client(job)
    return facts


def _said_by_client(job: Job) -> object:
    """The messages, the text or the texts of a request, or their tokens."""
    if job.ask.messages is not None:
        return list(job.ask.messages)
    texts = [prompt.tokens if prompt.text is None else prompt.text for prompt in job.ask.prompts]
    return texts[0] if len(texts) == 1 else texts
