"""From here into the store of one box, over as many connections as it takes.

The box says which chunks it lacks; only these are sent, and after a cut only those that have not arrived.
"""

import asyncio
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from edgephi.bundle.chunks import chunks_of
from edgephi.bundle.manifest import Manifest, decode_manifest
from edgephi.errors import EdgephiError, TransportError
from edgephi.flash.destination import Box
from edgephi.flash.source import BundleSource, check_has
from edgephi.flash.ssh.agent import Agent, agent_on
from edgephi.flash.ssh.connection import is_worth_another_try
from edgephi.flash.ssh.rate_limit import RateLimit
from edgephi.flash.ssh.result import check_outcome
from edgephi.store.agent.frames import CHUNK_HEAD, Kind, StepBegun, StepDone, Wanted, read_message
from edgephi.store.disk.lock import LOCK_WAIT_SECONDS
from edgephi.store.install import Outcome, WantedFile

# So many chunks may be on their way: a cut loses no more. The next one follows while one is written.
_CHUNKS_ON_THEIR_WAY = 2
_SHORTEST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 30.0
# A box that is there, and has ended the connection by itself, need not start or find its network first.
_LONGEST_WAIT_WHEN_THERE_SECONDS = 3.0
_LONGEST_TITLE = 60


@dataclass(frozen=True)
class TransferSettings:
    """How to send. `tries`: how many connections in a row may end without any progress.

    Half as many when the box has answered on each of them.
    `bytes_per_second` is for all boxes together, None as fast as possible. `unsigned_wheels`: see
    `edgephi.store.preflight.InstallOptions`.
    """

    allow_downgrade: bool = False
    bytes_per_second: int | None = None
    tries: int = 8
    parallel: int = 4
    unsigned_wheels: bool = False


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
        self, source: BundleSource, box: Box, settings: TransferSettings, limit: RateLimit, watcher: Watcher
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
        self._total_bytes = sum(entry.size for entry in self._manifest.files)  # as the box counts them
        self._arrived: set[tuple[str, int]] = set()
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
            received, has_answered = self._received, False
            try:
                async with agent_on(self._box, self._limit) as agent:
                    has_answered = True
                    return await self._send_over(agent)
            except EdgephiError as error:
                # Without a word from the box yet, what keeps us from it is for the user to mend.
                if not is_worth_another_try(error) or self._saved_bytes is None:
                    raise
                self._cuts += 1
                failures = 1 if self._received > received else failures + (2 if has_answered else 1)
                if failures >= self._settings.tries:
                    raise
                longest = _LONGEST_WAIT_WHEN_THERE_SECONDS if has_answered else _LONGEST_WAIT_SECONDS
                wait = min(_SHORTEST_WAIT_SECONDS * 2 ** (failures - 1), longest)
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
                "unsigned_wheels": self._settings.unsigned_wheels,
                "beside_base": self._source.base is not None,
                "lock_wait_seconds": LOCK_WAIT_SECONDS,
            },
        )
        await agent.send(Kind.MANIFEST, self._source.manifest)
        await agent.send(Kind.SIGNATURE, self._source.signature or b"")
        wanted: asyncio.Future[tuple[WantedFile, ...]] = asyncio.get_running_loop().create_future()
        agent.awaits("to hear what it lacks of the bundle")
        on_their_way = _OnTheirWay()
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(self._send_chunks(agent, wanted, on_their_way))
                result = await self._follow(agent, wanted, on_their_way)
                sending.cancel()
        except* EdgephiError as errors:
            raise _first(errors) from None
        if not on_their_way.is_finished:
            raise TransportError(
                f"{self._box}: expected a result after all chunks, found one before",
                hint="use the same edgephi on both sides",
            )
        outcome = read_message(Outcome, result, where=f"{self._box}: RESULT")
        asked = sum(chunk.size for file in wanted.result() for chunk in file.chunks)
        check_outcome(
            outcome,
            self._box,
            self._source,
            self._manifest,
            total_bytes=self._total_bytes,
            asked_bytes=asked,
        )
        return outcome

    async def _follow(
        self, agent: Agent, wanted: "asyncio.Future[tuple[WantedFile, ...]]", on_their_way: "_OnTheirWay"
    ) -> dict[str, Any]:
        """Read what the box says, up to its result."""
        while True:
            kind, value = await agent.receive()
            if kind == Kind.RECEIVED:
                place, size = on_their_way.arrived()
                if place not in self._arrived:  # one that is asked for again and again is no progress
                    self._arrived.add(place)
                    self._received += size
                self._watcher.count(size)
            elif kind == Kind.WANTED and not wanted.done():
                files = tuple(wanted_files(self._box, self._manifest, self._total_bytes, value))
                check_has(self._source, files, where=self._box.url)
                size = sum(chunk.size for file in files for chunk in file.chunks)
                if self._saved_bytes is None:
                    self._saved_bytes = self._total_bytes - size
                if files:
                    self._watcher.begin("send", size)
                agent.awaits("a word on chunks that were sent")
                wanted.set_result(files)
            elif kind in (Kind.STEP, Kind.DONE):
                show_step(self._watcher, kind, value, where=str(self._box))
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
                    await on_their_way.depart((file.sha256, offset), len(data))
                    self._sent_bytes += len(data)
                    if (file.sha256, offset) in self._sent:
                        self._resent_bytes += len(data)
                    self._sent.add((file.sha256, offset))
                    await agent.send_chunk(CHUNK_HEAD.pack(sha256, offset), data)
            await on_their_way.wait()
            agent.awaits("its result")
            on_their_way.is_finished = True
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
        self.is_finished = False
        self._room = asyncio.Semaphore(_CHUNKS_ON_THEIR_WAY)
        self._none_left = asyncio.Event()
        self._none_left.set()
        self._chunks: list[tuple[tuple[str, int], int]] = []

    async def depart(self, place: tuple[str, int], size: int) -> None:
        """Wait until one more may be sent: that at `place`, a file and an offset in it."""
        await self._room.acquire()
        self._none_left.clear()
        self._chunks.append((place, size))

    async def wait(self) -> None:
        """Wait until the box has all of them."""
        await self._none_left.wait()

    def arrived(self) -> tuple[tuple[str, int], int]:
        """The box has the oldest of them. Returns its place and size."""
        if not self._chunks:
            raise TransportError(
                "expected word of chunks that were sent, found it of more",
                hint="use the same edgephi on both sides",
            )
        self._room.release()
        oldest = self._chunks.pop(0)
        if not self._chunks:
            self._none_left.set()
        return oldest


def show_step(watcher: Watcher, kind: Kind, value: Mapping[str, Any], *, where: str) -> None:
    """Show what an agent says of its work."""
    if kind == Kind.STEP:
        step = read_message(StepBegun, value, where=f"{where}: STEP")
        watcher.begin(step.title[:_LONGEST_TITLE], step.size)
    else:
        watcher.count(read_message(StepDone, value, where=f"{where}: DONE").units)


def wanted_files(
    box: Box, manifest: Manifest, total_bytes: int, value: Mapping[str, Any]
) -> Iterator[WantedFile]:
    """What a box asks for. Raises TransportError for anything but chunks of this very manifest, once each."""
    entries = {entry.sha256: entry for entry in manifest.files}
    wanted = read_message(Wanted, value, where=f"{box}: WANTED")
    seen: set[str] = set()
    for file in wanted.files:
        entry = entries.get(file.sha256)
        chunks = {chunk.offset: chunk for chunk in chunks_of(entry)} if entry else {}
        offsets = [chunk[0] for chunk in file.chunks if len(chunk) == 2]
        if (
            entry is None
            or file.sha256 in seen
            or not len(file.chunks) == len(offsets) == len(set(offsets)) > 0
            or any(offset not in chunks or chunks[offset].size != size for offset, size in file.chunks)
        ):
            raise TransportError(
                f"{box}: expected it to ask for chunks of the bundle, found something else",
                hint="use the same edgephi on both sides",
            )
        seen.add(file.sha256)
        yield WantedFile(entry.sha256, entry.path, tuple(chunks[offset] for offset in offsets))
    if wanted.total_bytes != total_bytes:
        raise TransportError(
            f"{box}: expected a bundle of {total_bytes} bytes, found one of {wanted.total_bytes}",
            hint="use the same edgephi on both sides",
        )


def _first(errors: ExceptionGroup[EdgephiError]) -> EdgephiError:
    """The first error of a group, which may hold groups."""
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
