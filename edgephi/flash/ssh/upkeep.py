"""Looking after the store of a box over ssh: the functions of `edgephi.store`, done by the agent there."""

from typing import Any, TypeVar

from edgephi.errors import TransportError
from edgephi.flash.destination import Box
from edgephi.flash.ssh.agent import agent_on
from edgephi.flash.ssh.rate_limit import RateLimit
from edgephi.flash.ssh.transfer import Watcher, show_step
from edgephi.guards.visible import visible
from edgephi.store.agent.frames import Kind, read_message
from edgephi.store.garbage import Collected
from edgephi.store.rollback import RolledBack
from edgephi.store.status import StoreStatus
from edgephi.store.trust.change import KeyChange, Trusted

Record = TypeVar("Record")

_WRITTEN_BY_A_MODEL = "text"


async def status(box: Box, *, scrub_too: bool, watcher: Watcher) -> StoreStatus:
    """What is in the store of a box; see `edgephi.store.status.status`."""
    return await _ask(box, StoreStatus, watcher, operation="status", scrub=scrub_too)


async def roll_back(box: Box, watcher: Watcher) -> RolledBack:
    """Go back to the previous generation on a box; see `edgephi.store.rollback.roll_back`."""
    return await _ask(box, RolledBack, watcher, operation="roll_back")


async def collect_garbage(box: Box, *, dry_run: bool, unfinished: bool, watcher: Watcher) -> Collected:
    """Remove what nothing on a box needs; see `edgephi.store.garbage.collect_garbage`."""
    return await _ask(
        box, Collected, watcher, operation="collect_garbage", dry_run=dry_run, unfinished=unfinished
    )


async def trust_key(box: Box, file_name: str, data: bytes, watcher: Watcher) -> KeyChange:
    """Have the store of a box trust a key; see `edgephi.store.trust.change.trust_key`."""
    text = data.decode("ascii", errors="replace")
    return await _ask(box, KeyChange, watcher, operation="trust_key", file_name=file_name, key=text)


async def trusted(box: Box, watcher: Watcher) -> Trusted:
    """The keys that the store of a box trusts; see `edgephi.store.trust.change.trusted`."""
    return await _ask(box, Trusted, watcher, operation="trusted")


async def distrust_key(box: Box, which: str, *, also_the_last: bool, watcher: Watcher) -> KeyChange:
    """Have the store of a box trust a key no longer; see `edgephi.store.trust.change.distrust_key`."""
    return await _ask(
        box, KeyChange, watcher, operation="distrust_key", which=which, also_the_last=also_the_last
    )


async def require_no_key(box: Box, watcher: Watcher) -> None:
    """Have the store of a box take every bundle again; see `edgephi.store.trust.change.require_no_key`."""
    await _ask(box, Trusted, watcher, operation="require_no_key")


async def _ask(box: Box, record: type[Record], watcher: Watcher, **request: Any) -> Record:
    """Have the agent on a box do one thing. Raises what it reports, and as `agent_on` does."""
    answer = await _answer(box, watcher, request)
    return read_message(record, _shown(answer), where=f"{box}: RESULT")


async def _answer(box: Box, watcher: Watcher, request: dict[str, Any]) -> dict[str, Any]:
    async with agent_on(box, RateLimit(None)) as agent:
        agent.awaits("its answer")
        await agent.send_value(Kind.REQUEST, {"root": box.root, **request})
        while True:
            kind, value = await agent.receive()
            if kind == Kind.RESULT:
                return value
            if kind not in (Kind.STEP, Kind.DONE):
                raise TransportError(
                    f"{box}: expected its agent's answer, found {kind.name}",
                    hint="use the same edgephi on both sides",
                )
            show_step(watcher, kind, value, where=str(box))


def _shown(answer: Any, *, key: str = "") -> Any:
    """An answer whose names and messages are lines that show; what a model wrote in it stays as it is."""
    if isinstance(answer, dict):
        return {name: _shown(value, key=name) for name, value in answer.items()}
    if isinstance(answer, list):
        return [_shown(value, key=key) for value in answer]
    return visible(answer) if isinstance(answer, str) and key != _WRITTEN_BY_A_MODEL else answer
