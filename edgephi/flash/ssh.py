"""From here into the store of one box, over as many connections as it takes.

The box says which chunks it lacks; only these are sent, and after a cut only those that have not arrived.
"""

import asyncio
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from edgephi.chunks import chunks_of
from edgephi.errors import BadInputError, EdgephiError, TransportError
from edgephi.flash.agent import Agent, agent_on
from edgephi.flash.connection import is_worth_another_try
from edgephi.flash.destination import Box
from edgephi.flash.rate_limit import RateLimit
from edgephi.flash.source import Source
from edgephi.manifest import Manifest, decode_manifest
from edgephi.records import read_record
from edgephi.store.frames import CHUNK_HEAD, Kind
from edgephi.store.install import Outcome, WantedFile

# So many chunks may be on their way: a cut loses no more. The next one follows while one is written.
_CHUNKS_ON_THEIR_WAY = 2
_SHORTEST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 30.0
# After a cut, the agent of the old connection may need a moment to notice.
_LOCK_WAIT_SECONDS = 45.0


@dataclass(frozen=True)
class TransferSettings:
    """How to send. `tries`: how many connections in a row may end without any progress.

    `bytes_per_second` is for all boxes together, None as fast as possible.
    """

    allow_downgrade: bool = False
    bytes_per_second: int | None = None
    tries: int = 8
    parallel: int = 4


class Watcher(Protocol):
    """Shows what happens on one box."""

    def begin(self, title: str, size: int) -> None:
        """A step begins; `size` in bytes, 0 when that says nothing. It ends when the next one begins."""

    def count(self, units: int) -> None:
        """So many bytes more of the step are done."""

    def note(self, text: str) -> None:
        """Something that the user should know, such as that the connection was cut."""

    def end(self, error: EdgephiError | None) -> None:
        """Nothing more comes: all is done, or this went wrong."""


@dataclass(frozen=True)
class Transfer:
    """What crossed the network: `resent_bytes` more than once, because a cut had lost them.

    `sent_bytes` has all of them in it. `saved_bytes` of the bundle were on the box already.
    """

    sent_bytes: int = 0
    resent_bytes: int = 0
    saved_bytes: int = 0
    cuts: int = 0
    seconds: float = 0.0


class BoxFlash:
    """One bundle on its way to one box. `transfer` says what it took, also when `run` failed."""

    def __init__(
        self, source: Source, box: Box, settings: TransferSettings, limit: RateLimit, watcher: Watcher
    ) -> None:
        self._source = source
        self._box = box
        self._settings = settings
        self._limit = limit
        self._watcher = watcher
        self._manifest = decode_manifest(source.manifest, where=source.name)
        self._started = time.monotonic()
        self._sent: set[tuple[str, int]] = set()
        self._sent_bytes = 0
        self._resent_bytes = 0
        self._saved_bytes: int | None = None
        self._received = 0
        self._cuts = 0

    @property
    def transfer(self) -> Transfer:
        """What it took up to now."""
        return Transfer(
            sent_bytes=self._sent_bytes,
            resent_bytes=self._resent_bytes,
            saved_bytes=self._saved_bytes or 0,
            cuts=self._cuts,
            seconds=time.monotonic() - self._started,
        )

    async def run(self) -> Outcome:
        """Flash the box, connecting again after each cut. Raises what the box reports, or TransportError."""
        failures = 0
        while True:
            received = self._received
            try:
                async with agent_on(self._box, self._limit) as agent:
                    return await self._send_over(agent)
            except EdgephiError as error:
                # Without a word from the box yet, what keeps us from it is for the user to mend.
                if not is_worth_another_try(error) or self._saved_bytes is None:
                    raise
                self._cuts += 1
                failures = 1 if self._received > received else failures + 1
                if failures >= self._settings.tries:
                    raise
                wait = min(_SHORTEST_WAIT_SECONDS * 2 ** (failures - 1), _LONGEST_WAIT_SECONDS)
                wait *= random.uniform(0.75, 1.25)  # noqa: S311 - boxes shall not all come back at once
                self._watcher.note(f"{error.message}; trying again in {wait:.1f} s")
                await asyncio.sleep(wait)

    async def _send_over(self, agent: Agent) -> Outcome:
        """One connection: offer the bundle, send what is wanted, see it through."""
        await agent.send_value(
            Kind.REQUEST,
            {
                "operation": "install",
                "root": self._box.root,
                "allow_downgrade": self._settings.allow_downgrade,
                "lock_wait_seconds": 0.0 if self._saved_bytes is None else _LOCK_WAIT_SECONDS,
            },
        )
        await agent.send(Kind.MANIFEST, self._source.manifest)
        await agent.send(Kind.SIGNATURE, self._source.signature or b"")
        wanted: asyncio.Future[tuple[WantedFile, ...]] = asyncio.get_running_loop().create_future()
        on_their_way = _OnTheirWay()
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(self._send_chunks(agent, wanted, on_their_way))
                result = await self._follow(agent, wanted, on_their_way)
                sending.cancel()
        except* EdgephiError as errors:
            raise _first(errors) from None
        return read_record(
            Outcome,
            result,
            where=str(self._box),
            error=BadInputError,
            hint="use the same edgephi on both sides",
        )

    async def _follow(
        self, agent: Agent, wanted: "asyncio.Future[tuple[WantedFile, ...]]", on_their_way: "_OnTheirWay"
    ) -> dict[str, Any]:
        """Read what the box says, up to its result."""
        while True:
            kind, value = await agent.receive()
            if kind == Kind.RECEIVED:
                size = on_their_way.arrived()
                self._received += size
                self._watcher.count(size)
            elif kind == Kind.WANTED:
                files = tuple(_wanted_files(self._box, self._manifest, value))
                size = sum(chunk.size for file in files for chunk in file.chunks)
                if self._saved_bytes is None:
                    self._saved_bytes = int(value["total_bytes"]) - size
                if files:
                    self._watcher.begin("send", size)
                wanted.set_result(files)
            elif kind == Kind.STEP:
                self._watcher.begin(str(value["title"]), int(value["size"]))
            elif kind == Kind.DONE:
                self._watcher.count(int(value["units"]))
            elif kind == Kind.RESULT:
                return value
            else:
                raise TransportError(
                    f"{self._box}: expected its agent to say something, found {kind.name}", hint="try again"
                )

    async def _send_chunks(
        self, agent: Agent, wanted: "asyncio.Future[tuple[WantedFile, ...]]", on_their_way: "_OnTheirWay"
    ) -> None:
        """Send all chunks that the box wants, then say that these were all."""
        try:
            for file in await wanted:
                chunks = self._source.read_chunks(file)
                sha256 = bytes.fromhex(file.sha256)
                while (found := await self._next(chunks)) is not None:
                    offset, data = found
                    await on_their_way.depart(len(data))
                    self._sent_bytes += len(data)
                    if (file.sha256, offset) in self._sent:
                        self._resent_bytes += len(data)
                    self._sent.add((file.sha256, offset))
                    await agent.send_chunk(CHUNK_HEAD.pack(sha256, offset), data)
            await agent.send(Kind.FINISH)
        except EdgephiError as error:
            if not is_worth_another_try(error):
                raise
            # The box may have said why it hung up: whoever reads hears it.

    async def _next(self, chunks: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview] | None:
        """The next chunk of a file; None after the last. While a registry is slow, other boxes go on."""
        return next(chunks, None) if self._source.is_local else await asyncio.to_thread(next, chunks, None)


class _OnTheirWay:
    """The chunks that were sent and of which the box has not said yet that it has them."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(_CHUNKS_ON_THEIR_WAY)
        self._sizes: list[int] = []

    async def depart(self, size: int) -> None:
        """Wait until one more may be sent."""
        await self._room.acquire()
        self._sizes.append(size)

    def arrived(self) -> int:
        """The box has the oldest of them. Returns its size."""
        if not self._sizes:
            raise TransportError(
                "the box received what was not sent", hint="use the same edgephi on both sides"
            )
        self._room.release()
        return self._sizes.pop(0)


def _wanted_files(box: Box, manifest: Manifest, value: Mapping[str, Any]) -> Iterator[WantedFile]:
    """What a box asks for. Raises TransportError for anything but chunks of this very manifest."""
    entries = {entry.sha256: entry for entry in manifest.files}
    for file in value["files"]:
        entry = entries.get(file["sha256"])
        chunks = {chunk.offset: chunk for chunk in chunks_of(entry)} if entry else {}
        asked = [(offset, size) for offset, size in file["chunks"]]
        if entry is None or any(
            offset not in chunks or chunks[offset].size != size for offset, size in asked
        ):
            raise TransportError(
                f"{box}: expected it to ask for chunks of the bundle, found something else",
                hint="use the same edgephi on both sides",
            )
        yield WantedFile(entry.sha256, entry.path, tuple(chunks[offset] for offset, _ in asked))


def _first(errors: ExceptionGroup[EdgephiError]) -> EdgephiError:
    """The first error of a group, which may hold groups."""
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
