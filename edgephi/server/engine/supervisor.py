"""Keeps one engine alive, gives it one job after the other, and starts it anew when it ends or hangs."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Protocol

from edgephi.commands import edgephi_command
from edgephi.errors import CannotServeError, EdgephiError, ends_engine
from edgephi.processes.ending import ending
from edgephi.processes.reported import error_of
from edgephi.server.admission import Job, Queue
from edgephi.server.engine.messages import (
    Cancel,
    End,
    Failed,
    FromEngine,
    Open,
    Ready,
    Warned,
)
from edgephi.server.engine.process import EngineProcess
from edgephi.server.engine.process_facts import processor_seconds
from edgephi.server.refusal import Refusal, refusal_of

BUSY_PATIENCE = 10
"""How many times as long an engine may be silent that uses the processor. One piece of a prompt can be long:
LongRoPE makes all of a long prompt one."""

_START_SECONDS = 1800.0  # a large model on a slow card, read for the first time
_MOST_FAILURES = 6  # in a row: with the pauses between them, half a minute
_LONG_LIFE_SECONDS = 60.0  # an engine that lived that long did not fail at once
_BUSY_SHARE = 0.05  # of one processor: what a process must use to count as busy


class Observer(Protocol):
    """Who wants to know what happens to the engine."""

    def engine_ready(self, ready: Ready) -> None:
        """It answers, for the first time or again."""

    def engine_restarts(self, why: str) -> None:
        """It is started again; `why` in a few words."""

    def engine_warns(self, text: str) -> None:
        """It has something to say to who runs the server."""

    def answer_ended(self, job: Job, end: End) -> None:
        """It has finished an answer, or stopped when it was told to."""


class Supervisor:
    """The engine of one bundle. `ready` is what it said when it was ready, None while it is not."""

    def __init__(
        self, bundle: Path, opening: Open, queue: Queue, observer: Observer, *, watchdog_seconds: float
    ) -> None:
        self.ready: Ready | None = None
        self.was_ready = False
        self.restarts = 0
        self._bundle = bundle
        self._opening = opening
        self._queue = queue
        self._observer = observer
        self._watchdog_seconds = watchdog_seconds
        self._process: EngineProcess | None = None
        self._failure: Failed | None = None
        self._became_ready = asyncio.Event()
        self._job_done = asyncio.Event()
        self._last_sign = 0.0

    @property
    def pid(self) -> int | None:
        """Process id of the engine; None while there is none."""
        return self._process.pid if self._process is not None else None

    async def run(self) -> None:
        """Keep the engine alive until this is cancelled.

        Raises EdgephiError when it cannot be started: at once the first time, after some attempts when it
        has been ready before.
        """
        failures = 0
        try:
            while True:
                try:
                    process = await self._start()
                except EdgephiError as error:
                    failures += 1
                    if not self.was_ready or failures == _MOST_FAILURES:
                        raise
                    why = f"it did not start: {error.message}"
                else:
                    start = time.monotonic()
                    answered, why = await self._give_jobs(process)
                    lasted = answered or time.monotonic() - start > _LONG_LIFE_SECONDS
                    failures = 1 if lasted else failures + 1
                    if failures == _MOST_FAILURES:
                        raise CannotServeError(
                            f"the engine ended {failures} times in a row, at last because {why}",
                            hint=f"check the bundle with `{edgephi_command('verify')}`, "
                            f"this machine with `{edgephi_command('doctor')}`",
                        )
                self.restarts += 1
                self._observer.engine_restarts(why)
                await asyncio.sleep(2.0 ** (failures - 1) - 1)
        finally:
            self.kill()

    def abandon(self, job: Job, refusal: Refusal) -> None:
        """End a job early: it leaves the queue, or the engine stops within one token. Too late is fine."""
        if job.closed:
            return
        job.put(refusal)
        if not self._queue.leave(job) and job is self._queue.in_hand and self._process is not None:
            self._process.send(Cancel(job.ask.id))

    def kill(self) -> None:
        """End the engine at once."""
        if self._process is not None:
            self._process.kill()

    async def _start(self) -> EngineProcess:
        """Start a process and wait until it has generated a token. Raises EdgephiError."""
        self._failure = None
        self._became_ready = asyncio.Event()
        self._process = process = await EngineProcess.start(self._bundle, self._receive)
        process.send(self._opening)
        await _first_of(self._became_ready, process, _START_SECONDS)
        if self.ready is not None:
            self.was_ready = True
            self._observer.engine_ready(self.ready)
            return process
        if process.ended.done():
            raise self._error(process.ended.result())
        process.kill()
        raise CannotServeError(
            f"{self._bundle}: the engine was not ready after {_START_SECONDS:.0f} s",
            hint="a disk that is faster, or a smaller model",
        )

    async def _give_jobs(self, process: EngineProcess) -> tuple[bool, str]:
        """Give the engine jobs until it ends. Returns whether it has finished one, and why it ended."""
        answered, stuck = False, ""
        while not stuck and not process.ended.done() and self._failure is None:
            take = asyncio.ensure_future(self._queue.take())
            waited_for: set[asyncio.Future[Any]] = {take, process.ended}
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            if not take.done():
                take.cancel()
                break
            job = take.result()
            if process.ended.done() or self._failure is not None:
                self._queue.put_back()
                break
            process.send(job.ask)
            stuck = await self._watch(process)
            answered = answered or self._job_done.is_set()
            if not self._job_done.is_set():
                job.put(
                    Refusal(
                        503,
                        "the engine failed while it was on this request, and is started again",
                        code="engine_restarted",
                        retry_after=1,
                    )
                )
            self._queue.finish()
        self.ready = None
        process.kill()
        code = await process.ended
        return answered, stuck or self._error(code).message

    async def _watch(self, process: EngineProcess) -> str:
        """Wait until the job in hand is done or the engine has ended. Returns how it hangs, "" if not."""
        self._job_done.clear()
        self._last_sign = last_work = time.monotonic()
        used = processor_seconds(process.pid)
        tick = self._watchdog_seconds / 4
        while not await _first_of(self._job_done, process, tick):
            now, before = time.monotonic(), used
            used = processor_seconds(process.pid)
            if used - before > _BUSY_SHARE * tick:
                last_work = now
            silent = now - self._last_sign
            if min(silent, now - last_work) > self._watchdog_seconds:
                return f"it gave no sign for {silent:.0f} s"
            if silent > self._watchdog_seconds * BUSY_PATIENCE:
                return f"it was busy without a result for {silent:.0f} s"
        return ""

    def _receive(self, message: FromEngine) -> None:
        """Take in what the engine says."""
        self._last_sign = time.monotonic()
        if isinstance(message, Warned):
            self._observer.engine_warns(message.text)
        elif isinstance(message, Ready):
            self.ready = message
            self._became_ready.set()
        elif isinstance(message, Failed) and message.id is None:
            self._failure = message
        else:
            job = self._queue.in_hand
            if job is not None and job.ask.id == message.id:
                job.put(refusal_of(message) if isinstance(message, Failed) else message)
                if isinstance(message, End):
                    self._observer.answer_ended(job, message)
                if isinstance(message, End | Failed):
                    self._job_done.set()
            if isinstance(message, Failed) and ends_engine(error_of(message.error)):
                self._failure = message  # the process ends behind it, and must get no other job

    def _error(self, code: int) -> EdgephiError:
        """Why a process ended with `code`, as it said itself if it could."""
        if self._failure is not None:
            return error_of(self._failure.error)
        return CannotServeError(
            f"{self._bundle}: the engine's process {ending(code)}",
            hint="the kernel's log says more (dmesg), if memory ran out",
        )


async def _first_of(event: asyncio.Event, process: EngineProcess, seconds: float) -> bool:
    """Wait for an event, a process to end, or some time to pass; whether it was one of the first two."""
    waiter = asyncio.ensure_future(event.wait())
    waited_for: set[asyncio.Future[Any]] = {waiter, process.ended}
    done, _ = await asyncio.wait(waited_for, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    return bool(done)
