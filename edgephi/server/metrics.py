"""What /metrics tells, in Prometheus' format."""

from __future__ import annotations

import os
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from edgephi.server.admission import Job
from edgephi.server.engine.messages import End
from edgephi.server.engine.process_facts import resident_bytes
from edgephi.server.openai.told_reuse import told_speed, told_tokens

CONTENT_TYPE = CONTENT_TYPE_LATEST

_WAITS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # seconds
_SPEEDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0)  # tokens per second
_OVERHEADS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.5, 1.0)  # seconds


class Metrics:
    """Everything that is counted. The arguments are asked when somebody looks."""

    def __init__(
        self,
        *,
        queue_length: Callable[[], int],
        busy: Callable[[], bool],
        ready: Callable[[], bool],
        engine_pid: Callable[[], int | None],
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, of when it began: nobody asked
        # A registry of our own: the default one adds facts about Python that nobody asked for.
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "edgephi_requests", "Requests that have ended", ["route", "status"], registry=registry
        )
        self._tokens = Counter(
            "edgephi_tokens",
            "Tokens of finished answers: prompt (of these reused: not computed again), generated",
            ["kind"],
            registry=registry,
        )
        self._restarts = Counter(
            "edgephi_engine_restarts", "Times the engine was started again", registry=registry
        )
        self._queue_seconds = Histogram(
            "edgephi_queue_seconds", "Waiting for the engine", buckets=_WAITS, registry=registry
        )
        self._first_token = Histogram(
            "edgephi_first_token_seconds",
            "From the request's arrival to the first piece of its answer",
            buckets=_WAITS,
            registry=registry,
        )
        self._prefill = Histogram(
            "edgephi_prefill_tokens_per_second",
            "Speed of reading prompts",
            buckets=_SPEEDS,
            registry=registry,
        )
        self._decode = Histogram(
            "edgephi_decode_tokens_per_second", "Speed of writing answers", buckets=_SPEEDS, registry=registry
        )
        self._delivery = Histogram(
            "edgephi_piece_delivery_seconds",
            "From a piece of an answer in the engine to the client's socket",
            buckets=_OVERHEADS,
            registry=registry,
        )
        self._overhead = Histogram(
            "edgephi_request_overhead_seconds",
            "A request's time less what the queue, the engine and a slow client took of it",
            buckets=_OVERHEADS,
            registry=registry,
        )
        Gauge("edgephi_queue_length", "Requests that wait for the engine", registry=registry).set_function(
            queue_length
        )
        Gauge("edgephi_engine_busy", "1 while the engine is on a request", registry=registry).set_function(
            lambda: float(busy())
        )
        Gauge("edgephi_ready", "1 when the engine answers", registry=registry).set_function(
            lambda: float(ready())
        )
        memory = Gauge(
            "edgephi_resident_memory_bytes",
            "Memory, by process: server, engine",
            ["process"],
            registry=registry,
        )
        memory.labels("server").set_function(lambda: resident_bytes(os.getpid()))
        memory.labels("engine").set_function(lambda: _of_engine(engine_pid()))
        for kind in ("prompt", "reused", "generated"):
            self._tokens.labels(kind)

    def text(self) -> bytes:
        """All of it, as it is now."""
        return generate_latest(self._registry)

    def request_ended(self, route: str, status: int) -> None:
        """A request has ended with a status."""
        self._requests.labels(route, str(status)).inc()

    def engine_restarted(self) -> None:
        """The engine is started again."""
        self._restarts.inc()

    def piece_delivered(self, seconds: float) -> None:
        """See `answers.Watcher`."""
        self._delivery.observe(seconds)

    def answer_delivered(self, job: Job, end: End, seconds: float, blocked_seconds: float) -> None:
        """An answer is on its way, `seconds` after its request came."""
        self._overhead.observe(max(0.0, seconds - job.queue_seconds - end.engine_seconds - blocked_seconds))

    def answer_ended(self, job: Job, end: End) -> None:
        """The engine has finished an answer, or was told to stop."""
        self._queue_seconds.observe(job.queue_seconds)
        if job.first_piece is not None:
            self._first_token.observe(job.first_piece - job.arrived)
        self._tokens.labels("prompt").inc(end.prompt_tokens)
        self._tokens.labels("reused").inc(told_tokens(end.reused_tokens))  # clients may read this
        self._tokens.labels("generated").inc(end.generated_tokens)
        if end.prefill_tokens_per_second:
            self._prefill.observe(told_speed(end.prefill_tokens_per_second))
        if end.decode_tokens_per_second:
            self._decode.observe(end.decode_tokens_per_second)


def _of_engine(pid: int | None) -> float:
    return 0.0 if pid is None else float(resident_bytes(pid))
