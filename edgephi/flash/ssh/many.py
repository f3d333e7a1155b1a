"""Several boxes at once: each on its own, so that one that fails holds up no other."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgephi.errors import EdgephiError, TransportError, UsageError
from edgephi.flash.destination import Box
from edgephi.flash.source import BundleSource
from edgephi.flash.ssh.cancelled import run_until_cancelled
from edgephi.flash.ssh.rate_limit import RateLimit
from edgephi.flash.ssh.transfer import BoxFlash, Transfer, TransferSettings, Watcher
from edgephi.store.install import Outcome


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
    twice = {box for box in boxes if boxes.count(box) > 1}
    if twice:
        raise UsageError(
            f"ssh://{min(map(str, twice))}: expected each box once, found it twice", hint="name it once"
        )
    return run_until_cancelled(_flash_all(source, boxes, settings, watch))


def exit_code(results: Sequence[BoxResult]) -> int:
    """That of its error for one box; for several, 6 if any failed."""
    errors = [result.error for result in results if result.error is not None]
    if not errors:
        return 0
    return errors[0].exit_code if len(results) == 1 else TransportError.exit_code


async def _flash_all(
    source: BundleSource, boxes: Sequence[Box], settings: TransferSettings, watch: Callable[[Box], Watcher]
) -> tuple[BoxResult, ...]:
    limit = RateLimit(settings.bytes_per_second)
    room = asyncio.Semaphore(settings.parallel)

    async def flash(box: Box) -> BoxResult:
        async with room:
            watcher = watch(box)
            one = BoxFlash(source, box, settings, limit, watcher)
            outcome, error = None, None
            try:
                outcome = await one.run()
            except EdgephiError as found:
                error = found
            watcher.end(error)
            return BoxResult(box, outcome, error, one.transfer)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(flash(box)) for box in boxes]
    return tuple(task.result() for task in tasks)
