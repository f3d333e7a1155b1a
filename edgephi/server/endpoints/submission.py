"""How a request joins the queue, and when it is over."""

from __future__ import annotations

import asyncio
import dataclasses
import time

from starlette.requests import Request
from starlette.responses import Response

from edgephi.server.admission import Job
from edgephi.server.answers import JobResponse
from edgephi.server.endpoints.service import Service
from edgephi.server.engine.messages import Ask, End
from edgephi.server.engine.spare_memory import give_back_freed
from edgephi.server.images.room import Place
from edgephi.server.refusal import Refusal
from edgephi.server.writer import Writer

_LATE_SECONDS = 10.0  # after the deadline, for a client to take what it is told about it


def submit(
    request: Request, service: Service, ask: Ask, writer: Writer, *, stream: bool, place: Place | None = None
) -> Response:
    """Let a request wait for the engine. Raises Refusal when too many wait.

    `place` is where its images are: it is left when the request is over.
    """
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
        if job.ask.images:
            # The connection keeps the request until its next one comes.
            job.ask = dataclasses.replace(job.ask, images=())
            give_back_freed()
        if place is not None:
            place.leave()

    if place is not None:
        place.stay()
    return JobResponse(
        job, writer, stream=stream, over=over, piece_delivered=metrics.piece_delivered, delivered=delivered
    )
