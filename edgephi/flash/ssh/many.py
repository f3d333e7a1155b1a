"""Several boxes at once: each on its own, so that one that fails holds up no other."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgephi.errors import EdgephiError, TransportError, UsageError
from edgephi.flash.destination import Box
from edgephi.flash.source import BundleSource
from edgephi.flash.ssh.cancelled import run_until_cancelled
from edgephi.flash.ssh.rate_limit import RateLimit
from edgephi.flash.ssh.transfer import BoxFlash, Transfer, TransferSettings, Watcher
from edgephi.store.install import Outcome

Answer = TypeVar("Answer")
Result = TypeVar("Result")


@dataclass(frozen=True)
class BoxAnswer(Generic[Answer]):
    """What one box said when it was asked for one thing: there is either an answer or an error."""

    box: Box
    answer: Answer | None
    error: EdgephiError | None
    seconds: float


@dataclass(frozen=True)
class BoxResult:
    """How it ended on one box: there is either an outcome or an error."""

    box: Box
    outcome: Outcome | None
    error: EdgephiError | None
    transfer: Transfer


def flash_all(
    source: BundleSource, boxes: Sequence[Box], settings: TransferSettings, watch: Callable[[Box], Watcher]
) -> tuple[BoxResult, ...]:
    """Flash a bundle onto boxes, `settings.parallel` of them at a time. `watch` gives each its watcher.

    Raises UsageError when a box is named twice, BadBundleError when the source is no bundle. What goes wrong
    on a box is in its result.
    """
    check_named_once(boxes)
    limit = RateLimit(settings.bytes_per_second)

    async def flash(box: Box, watcher: Watcher) -> BoxResult:
        one = BoxFlash(source, box, settings, limit, watcher)
        outcome, error = None, None
        try:
            outcome = await one.run()
        except EdgephiError as found:
            error = found
        watcher.end(error)
        return BoxResult(box, outcome, error, one.transfer)

    return run_until_cancelled(_each(boxes, flash, watch, settings.parallel))


def ask_all(
    boxes: Sequence[Box],
    ask: Callable[[Box, Watcher], Awaitable[Answer]],
    watch: Callable[[Box], Watcher],
    *,
    parallel: int,
) -> tuple[BoxAnswer[Answer], ...]:
    """Have `ask` ask boxes for one thing, `parallel` of them at a time. `watch` gives each its watcher.

    Raises UsageError when a box is named twice. What goes wrong on a box is in its answer.
    """
    check_named_once(boxes)

    async def asked(box: Box, watcher: Watcher) -> BoxAnswer[Answer]:
        start = time.monotonic()
        answer, error = None, None
        try:
            answer = await ask(box, watcher)
        except EdgephiError as found:
            error = found
        watcher.end(error)
        return BoxAnswer(box, answer, error, time.monotonic() - start)

    return run_until_cancelled(_each(boxes, asked, watch, parallel))


def check_named_once(boxes: Sequence[Box]) -> None:
    """Raise UsageError when a box is named twice."""
    twice = {box for box in boxes if boxes.count(box) > 1}
    if twice:
        raise UsageError(
            f"ssh://{min(map(str, twice))}: expected each box once, found it twice", hint="name it once"
        )


def exit_code(errors: Sequence[EdgephiError | None]) -> int:
    """That of its error for one box; for several, 6 if any failed."""
    found = [error for error in errors if error is not None]
    if not found:
        return 0
    return found[0].exit_code if len(errors) == 1 else TransportError.exit_code


async def _each(
    boxes: Sequence[Box],
    work: Callable[[Box, Watcher], Awaitable[Result]],
    watch: Callable[[Box], Watcher],
    parallel: int,
) -> tuple[Result, ...]:
    room = asyncio.Semaphore(parallel)

    async def one(box: Box) -> Result:
        async with room:
            return await work(box, watch(box))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(box)) for box in boxes]
    return tuple(task.result() for task in tasks)
