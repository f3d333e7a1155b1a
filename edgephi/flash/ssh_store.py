"""Looking after the store of a box over ssh: the functions of `edgephi.store`, done by the agent there."""

import asyncio
from typing import Any, TypeVar

from edgephi.errors import BadInputError
from edgephi.flash.agent import agent_on
from edgephi.flash.destination import Box
from edgephi.flash.rate_limit import RateLimit
from edgephi.flash.ssh import Watcher
from edgephi.records import read_record
from edgephi.store.frames import Kind
from edgephi.store.garbage import Collected
from edgephi.store.rollback import RolledBack
from edgephi.store.status import StoreStatus
from edgephi.store.trusting import KeyFacts, Trusted

Record = TypeVar("Record")


class _BadAnswerError(BadInputError):
    """An agent answered with something else than it was asked for."""


def status(box: Box, *, scrub_too: bool, watcher: Watcher) -> StoreStatus:
    """What is in the store of a box; see `edgephi.store.status.status`."""
    return _ask(box, StoreStatus, watcher, operation="status", scrub=scrub_too)


def roll_back(box: Box, watcher: Watcher) -> RolledBack:
    """Go back to the previous generation on a box; see `edgephi.store.rollback.roll_back`."""
    return _ask(box, RolledBack, watcher, operation="roll_back")


def collect_garbage(box: Box, *, dry_run: bool, unfinished: bool, watcher: Watcher) -> Collected:
    """Remove what nothing on a box needs; see `edgephi.store.garbage.collect_garbage`."""
    return _ask(box, Collected, watcher, operation="collect_garbage", dry_run=dry_run, unfinished=unfinished)


def trust_key(box: Box, file_name: str, data: bytes, watcher: Watcher) -> KeyFacts:
    """Have the store of a box trust a key; see `edgephi.store.trusting.trust_key`."""
    text = data.decode("ascii", errors="replace")
    return _ask(box, KeyFacts, watcher, operation="trust_key", file_name=file_name, key=text)


def trusted(box: Box, watcher: Watcher) -> Trusted:
    """The keys that the store of a box trusts; see `edgephi.store.trusting.trusted`."""
    return _ask(box, Trusted, watcher, operation="trusted")


def distrust_key(box: Box, which: str, *, also_the_last: bool, watcher: Watcher) -> KeyFacts:
    """Have the store of a box trust a key no longer; see `edgephi.store.trusting.distrust_key`."""
    return _ask(box, KeyFacts, watcher, operation="distrust_key", which=which, also_the_last=also_the_last)


def _ask(box: Box, record: type[Record], watcher: Watcher, **request: Any) -> Record:
    """Have the agent on a box do one thing. Raises what it reports, and as `agent_on` does."""
    answer = asyncio.run(_answer(box, watcher, request))
    return read_record(
        record, answer, where=str(box), error=_BadAnswerError, hint="use the same edgephi on both sides"
    )


async def _answer(box: Box, watcher: Watcher, request: dict[str, Any]) -> dict[str, Any]:
    async with agent_on(box, RateLimit(None)) as agent:
        await agent.send_value(Kind.REQUEST, {"root": box.root, **request})
        while True:
            kind, value = await agent.receive()
            if kind == Kind.RESULT:
                return value
            if kind == Kind.STEP:
                watcher.begin(str(value["title"]), int(value["size"]))
            elif kind == Kind.DONE:
                watcher.count(int(value["units"]))
