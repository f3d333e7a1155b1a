"""One server from its start to its end: bind, load, answer, drain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import cast

from uvicorn import Config, Server

from edgephi.bundle.manifest import ARTIFACT_FOLDER, TOKENIZER_FILE, Manifest
from edgephi.commands import shell_command
from edgephi.errors import CannotServeError, EdgephiError, UsageError
from edgephi.server.admission import Job, Queue
from edgephi.server.app import make_app
from edgephi.server.constraint_trials import ConstraintTrials
from edgephi.server.endpoints.service import Fetches, Service, ServiceOptions
from edgephi.server.engine.messages import End, Open, Ready
from edgephi.server.engine.spare_memory import give_back_memory
from edgephi.server.engine.supervisor import Supervisor
from edgephi.server.guard import GateOptions
from edgephi.server.http.connection import KEEP_ALIVE_SECONDS, Connection
from edgephi.server.http.open_files import allow_open_files
from edgephi.server.http.room import MOST_CONNECTIONS, Room
from edgephi.server.log import LibraryHandler, Log
from edgephi.server.metrics import Metrics
from edgephi.server.refusal import Refusal
from edgephi.server.systemd.notify import tell_service_manager, watchdog_interval
from edgephi.server.tally import Tally

_BACKLOG = 1024
# asyncio takes in so many connections before it turns to those that it has: each needs a file meanwhile.
_ACCEPTED_AT_ONCE = 32
_MORE_THAN_WAIT = 64  # places for those that do not wait in the queue
_OTHER_FILES = 192  # our own, and those of connections that come and go
_FEWEST_PLACES = 16
_SHORT_OF_FILES = (errno.EMFILE, errno.ENFILE)
_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LAST_WORDS_SECONDS = 2.0  # for clients to take the error that ends what they waited for


@dataclass(frozen=True)
class ServeOptions:
    """All that `edgephi serve` can be told. Seconds and bytes.

    `port` 0 takes a free one. `queue` requests wait at most; `deadline` None is none. `hosts` and `origins`:
    see GateOptions. `max_images` and `fetches`: see ServiceOptions.
    """

    host: str
    port: int
    api_key: str | None
    opening: Open
    queue: int
    deadline: float | None
    grace: float
    max_body: int
    watchdog: float
    log_json: bool
    log_prompts: bool
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    ollama: bool = False
    max_images: int = 32_000_000
    fetches: Fetches = "none"


@dataclass(frozen=True)
class Listening:
    """A server that answers: where, and what computes."""

    url: str
    ready: Ready


def serve(
    bundle: Path, manifest: Manifest, options: ServeOptions, on_ready: Callable[[Listening], None]
) -> None:
    """Serve the bundle in a folder until a signal ends it.

    `on_ready` is called once, when the first token was generated. Raises UsageError when the address must not
    be listened on, CannotServeError when it cannot, and what the engine could not be started for.
    """
    files = allow_open_files() - _OTHER_FILES
    places = max(_FEWEST_PLACES, min(files, max(MOST_CONNECTIONS, options.queue + _MORE_THAN_WAIT)))
    listener = listen(options)
    try:
        asyncio.run(_serve(bundle, manifest, options, _Door(listener, Room(places)), on_ready))
    finally:
        listener.close()


def listen(options: ServeOptions) -> socket.socket:
    """A socket on the address of the options. Raises UsageError or CannotServeError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if options.api_key is None and not ipaddress.ip_address(address[0]).is_loopback:
            raise UsageError(
                f"expected an API key with the address {options.host}, which others can reach, found none",
                hint="give --api-key-file FILE or EDGEPHI_API_KEY, or listen on 127.0.0.1",
            )
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else "not a host's name"
        raise CannotServeError(
            f"cannot listen on {options.host} port {options.port}: {reason}",
            hint=f"--port 0 takes a free port; `{shell_command('ss', '-ltnp')}` says who has this one",
        ) from None


class _Quiet(Server):
    """uvicorn's server without its own signal handling, which ends the process by the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to us."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the kernel hold more connections than asyncio takes in at once: it has one number for both."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_BACKLOG)


@dataclass(frozen=True)
class _Observer:
    """Says what happens to the engine to the log, the metrics and the service manager."""

    log: Log
    metrics: Metrics
    on_first: Callable[[Ready], None]

    def engine_ready(self, ready: Ready) -> None:
        self.on_first(ready)

    def engine_restarts(self, why: str) -> None:
        self.metrics.engine_restarted()
        self.log.event("warning", f"the engine is started again: {why}")

    def engine_warns(self, text: str) -> None:
        self.log.event("warning", text)

    def answer_ended(self, job: Job, end: End) -> None:
        self.metrics.answer_ended(job, end)


@dataclass(frozen=True)
class _Door:
    """Where clients come in, and the places for them."""

    listener: socket.socket
    room: Room


async def _serve(
    bundle: Path,
    manifest: Manifest,
    options: ServeOptions,
    door: _Door,
    on_ready: Callable[[Listening], None],
) -> None:
    listener, room = door.listener, door.room
    log = Log(as_json=options.log_json, prompts=options.log_prompts)
    queue = Queue(options.queue)
    url, told = url_of(listener), False

    def ready(facts: Ready) -> None:
        nonlocal told
        if service.stopping:  # nobody can come in any more
            return
        give_back_memory()
        tell_service_manager("READY=1")
        if not told:
            told = True
            on_ready(Listening(url, facts))
        else:
            log.event("info", "the engine answers again")

    metrics = Metrics(
        queue_length=lambda: len(queue),
        busy=lambda: queue.in_hand is not None,
        ready=lambda: supervisor.ready is not None,
        engine_pid=lambda: supervisor.pid,
    )
    supervisor = Supervisor(
        bundle, options.opening, queue, _Observer(log, metrics, ready), watchdog_seconds=options.watchdog
    )
    service = Service(
        manifest,
        ServiceOptions(
            options.max_body,
            options.deadline,
            options.opening.system,
            options.ollama,
            options.max_images,
            options.fetches,
        ),
        queue,
        supervisor,
        ConstraintTrials(bundle / ARTIFACT_FOLDER / TOKENIZER_FILE, manifest.chat.stop_token_ids),
        metrics,
        log,
    )
    gate = GateOptions(
        api_key=None if options.api_key is None else options.api_key.encode(),
        on_loopback=ipaddress.ip_address(listener.getsockname()[0]).is_loopback,
        origins=options.origins,
        hosts=options.hosts,
    )
    tally = Tally(log)
    room.told = tally.note

    def broken(cause: OSError) -> None:
        tally.note(f"a connection could not be taken, or broke: {cause.strerror or type(cause).__name__}")
        if cause.errno in _SHORT_OF_FILES:
            room.free_file()

    with _logging_to(LibraryHandler(log, broken)):
        server = _Quiet(
            Config(
                make_app(service, gate),
                http=cast("type[Connection]", partial(Connection, room=room)),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_ACCEPTED_AT_ONCE,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
            )
        )
        with _stop_signal(supervisor) as stop:
            await _run(server, listener, service, stop, options.grace)
        tally.close()


async def _run(
    server: Server, listener: socket.socket, service: Service, stop: asyncio.Event, grace: float
) -> None:
    """Serve until a signal comes or the engine cannot be had."""
    engine = asyncio.ensure_future(service.supervisor.run())
    http = asyncio.ensure_future(server.serve(sockets=[listener]))
    stopped = asyncio.ensure_future(stop.wait())
    pinger = asyncio.ensure_future(_reassure_service_manager())
    try:
        await asyncio.wait({engine, http, stopped}, return_when=asyncio.FIRST_COMPLETED)
        service.stopping = True
        tell_service_manager("STOPPING=1")
        end = time.monotonic() + grace
        for accepting in server.servers:
            accepting.close()
        if not engine.done():
            await _drain(service, grace)
        service.constraints.close()
        service.queue.refuse_all(Refusal(503, "the server is stopping", code="stopping", retry_after=5))
        # Clients still read what was written for them.
        server.config.timeout_graceful_shutdown = ceil(max(end - time.monotonic(), _LAST_WORDS_SECONDS))
        server.should_exit = True
        await http
    finally:
        pinger.cancel()
        stopped.cancel()
        failed = engine.done() and engine.exception()
        engine.cancel()
        with contextlib.suppress(asyncio.CancelledError, EdgephiError):
            await engine
    if failed:
        raise failed


async def _drain(service: Service, grace: float) -> None:
    """Let what is begun and what waits be answered, for `grace` seconds at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace):
            await service.queue.until_empty()


async def _reassure_service_manager() -> None:
    """Tell systemd that the event loop runs, as often as it wants to hear it."""
    interval = watchdog_interval()
    while interval is not None:
        tell_service_manager("WATCHDOG=1")
        await asyncio.sleep(interval)


@contextlib.contextmanager
def _stop_signal(supervisor: Supervisor) -> Iterator[asyncio.Event]:
    """An event that the first ending signal sets. The second one ends the process at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def handle(number: int) -> None:
        if stop.is_set():
            supervisor.kill()
            os._exit(128 + number)
        stop.set()

    for number in _ENDING_SIGNALS:
        loop.add_signal_handler(number, handle, number)
    try:
        yield stop
    finally:
        for number in _ENDING_SIGNALS:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _logging_to(handler: LibraryHandler) -> Iterator[None]:
    """Send what asyncio and uvicorn have to say to our log, in lines."""
    loggers = [logging.getLogger(name) for name in ("asyncio", "uvicorn.error")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    # What clients do wrong is in the log of requests.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def url_of(listener: socket.socket) -> str:
    """The address of a socket as a browser takes it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
