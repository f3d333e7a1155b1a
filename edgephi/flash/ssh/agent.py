"""The agent on a box, seen from here: started over a connection, asked for one thing, ended."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncssh

from edgephi.errors import EdgephiError, NotSupportedError, TransportError
from edgephi.flash.destination import Box
from edgephi.flash.ssh.agent_archive import NO_PYTHON, OLD_PYTHON, OLDEST_PYTHON, agent_archive, start_command
from edgephi.flash.ssh.connection import ConnectionCutError, close, connect
from edgephi.flash.ssh.incoming import SILENCE_SECONDS, Incoming, SilentBoxError
from edgephi.flash.ssh.rate_limit import RateLimit
from edgephi.processes.reported import Reported, error_of
from edgephi.store.agent.frames import (
    HEADER,
    PING_SECONDS,
    Kind,
    Ready,
    frame,
    frame_of,
    read_message,
    read_value,
)

_LONGEST_WORDS_BYTES = 4096
_LONGEST_MESSAGE = 2000
_LAST_WORD_SECONDS = 3.0
_FRAMES_AHEAD = 16
_NOT_FOUND = 127
_SEND_BUFFER_BYTES = 256 << 10
# While the agent itself is sent: no more than a slow line takes in the time that is waited for it.
_START_PIECE_BYTES = 16 << 10


class Agent:
    """A running agent. Frames of the box come out of `receive`; everything raises TransportError.

    Whatever is being sent, the box is listened to: one that says nothing more is given up in between, too.
    """

    def __init__(self, box: Box, process: "asyncssh.SSHClientProcess[bytes]", limit: RateLimit) -> None:
        self._box = box
        self._process = process
        self._limit = limit
        self._sending = asyncio.Lock()
        self._incoming = Incoming(box, process.stdout)
        self._frames: asyncio.Queue[tuple[Kind, bytes] | None] = asyncio.Queue(_FRAMES_AHEAD)
        self._ended: EdgephiError | None = None
        self._is_heard = False
        self._over = asyncio.Event()
        self._words = b""

    async def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Send a frame, at the rate that is allowed."""
        await self._write(frame(kind, payload))

    async def send_value(self, kind: Kind, value: Any) -> None:
        """Send a frame with a value as JSON."""
        await self._write(frame_of(kind, value))

    async def send_chunk(self, head: bytes, data: memoryview) -> None:
        """Send a chunk. When this returns, `data` may be used again."""
        await self._write(HEADER.pack(Kind.CHUNK, len(head) + len(data)) + head, data)

    def awaits(self, what: str) -> None:
        """Say what comes next, in the words of an error."""
        self._incoming.awaited = what

    async def receive(self) -> tuple[Kind, dict[str, Any]]:
        """The next frame and its value. Raises what the agent reports, and ConnectionCutError at the end."""
        found = await self._frames.get()
        if found is None:
            assert self._ended is not None  # noqa: S101 - for the type checker
            raise self._ended
        kind, payload = found
        return kind, read_value(payload) if payload else {}

    async def listen(self) -> None:
        """Take in frames until the last one. Then nothing can be sent any more either."""
        self._is_heard = True
        try:
            while True:
                with _cut(self._box):
                    kind, payload = await self._incoming.frame()
                if kind == Kind.ERROR:
                    raise _reported(self._box, read_value(payload))
                await self._frames.put((kind, payload))
        except ConnectionCutError as cause:
            self._ended = await self._why_it_ended() or cause
        except EdgephiError as error:
            self._ended = error
        if not isinstance(self._ended, ConnectionCutError):
            self._process.channel.abort()
        self._over.set()
        await self._frames.put(None)

    async def gather_words(self) -> None:
        """Keep the last of what is said on standard error; else it would stop what is said beside it."""
        with contextlib.suppress(asyncssh.Error, OSError):
            while data := await self._process.stderr.read(_LONGEST_WORDS_BYTES):
                self._words = (self._words + data)[-_LONGEST_WORDS_BYTES:]

    async def start(self, archive: bytes) -> None:
        """Send the agent, an archive, and wait for its first word, which says what the box is."""
        try:
            for start in range(0, len(archive), _START_PIECE_BYTES):
                piece = archive[start : start + _START_PIECE_BYTES]
                await self._limit.wait(len(piece))
                async with asyncio.timeout(SILENCE_SECONDS):
                    with _cut(self._box):
                        self._process.stdin.write(piece)
                        await self._process.stdin.drain()
            with _cut(self._box):
                await self._incoming.skip_greeting()
                kind, payload = await self._incoming.frame()
        except TimeoutError:
            raise SilentBoxError(
                f"{self._box}: expected it to take edgephi's agent, found that it takes nothing for "
                f"{SILENCE_SECONDS:.0f} s",
                hint="see whether the user may run commands there",
            ) from None
        except ConnectionCutError as cause:
            raise await self._why_not_started() from cause
        if kind == Kind.ERROR:
            raise _reported(self._box, read_value(payload))
        if kind != Kind.READY:
            raise TransportError(f"{self._box}: expected READY, found {kind.name}", hint="try again")
        read_message(Ready, read_value(payload), where=f"{self._box}: READY")

    async def keep_alive(self) -> None:
        """Say a word now and then, until cancelled: else the agent takes the connection for dead."""
        while True:
            await asyncio.sleep(PING_SECONDS)
            if not self._sending.locked():
                await self.send(Kind.PING)

    def cancel(self) -> None:
        """Ask the agent to stop what it does. Does not wait."""
        with contextlib.suppress(OSError):
            self._process.stdin.write(frame(Kind.CANCEL))

    async def _write(self, head: bytes, data: memoryview | bytes = b"") -> None:
        try:
            await self._write_pieces(head, data)
        except ConnectionCutError:
            # What the box said before, or that it says nothing more, is why.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), _LAST_WORD_SECONDS if self._is_heard else 0)
            if self._ended is not None:
                raise self._ended from None
            raise

    async def _write_pieces(self, head: bytes, data: memoryview | bytes) -> None:
        async with self._sending:
            with _cut(self._box):
                await self._limit.wait(len(head))
                self._process.stdin.write(head)
                size = self._limit.piece_bytes
                for start in range(0, len(data), size):
                    piece = data[start : start + size]
                    await self._limit.wait(len(piece))
                    self._process.stdin.write(piece)  # type: ignore[arg-type]  # it copies any buffer
                    await self._process.stdin.drain()
                await self._process.stdin.drain()

    async def _why_it_ended(self) -> ConnectionCutError | None:
        """That the agent died while the connection lived; None when it is the connection that ended."""
        with contextlib.suppress(TimeoutError, asyncssh.Error, OSError):
            await asyncio.wait_for(self._process.wait_closed(), 2)
        ended_by = self._process.exit_signal
        if ended_by is None:
            return None
        return ConnectionCutError(
            f"{self._box}: expected edgephi's agent to stay, found that SIG{ended_by[0]} ended it",
            hint="see whether memory ran out there (dmesg); what has arrived is kept",
        )

    async def _why_not_started(self) -> EdgephiError:
        """What the starter's exit code and its last words mean."""
        with contextlib.suppress(TimeoutError, asyncssh.Error, OSError):
            await asyncio.wait_for(self._process.wait_closed(), 2)
        code = self._process.exit_status
        said = self._incoming.said + await _rest(self._process.stdout)
        last = _last_line(self._words)
        version = ".".join(map(str, OLDEST_PYTHON))
        hint = f"install python3 {version} or newer on the box; nothing else is needed"
        if code in (NO_PYTHON, _NOT_FOUND):
            return NotSupportedError(
                f"{self._box}: expected Python {version} or newer, found none", hint=hint
            )
        if code == OLD_PYTHON:
            found = _last_line(said) or "an older one"
            return NotSupportedError(
                f"{self._box}: expected Python {version} or newer, found {found}", hint=hint
            )
        if code is None:
            return ConnectionCutError(
                f"{self._box}: expected edgephi's agent to start, found that the connection ended",
                hint="see whether ssh works, and whether the user may run commands there",
            )
        return TransportError(
            f"{self._box}: expected edgephi's agent to start, found exit code {code}"
            f"{': ' if last else ''}{last}",
            hint="see whether the user may run commands there, such as python3",
        )


@contextlib.asynccontextmanager
async def agent_on(box: Box, limit: RateLimit) -> AsyncIterator[Agent]:
    """Connect to a box and have an agent there for as long as the block runs.

    When the block is cancelled, so is the agent. Raises as `connect` does, NotSupportedError when the box
    has no Python, and what the agent reports.
    """
    archive = asyncio.create_task(asyncio.to_thread(agent_archive))
    connection = await connect(box)
    try:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                with _cut(box):
                    process: asyncssh.SSHClientProcess[bytes] = await connection.create_process(
                        start_command(), encoding=None, request_pty=False, stderr=asyncssh.PIPE
                    )
        except TimeoutError:
            raise SilentBoxError(
                f"{box}: expected it to start a command, found nothing for {SILENCE_SECONDS:.0f} s",
                hint="see whether the user may run commands there",
            ) from None
        process.channel.set_write_buffer_limits(high=_START_PIECE_BYTES)
        agent = Agent(box, process, limit)
        beside = [asyncio.create_task(agent.gather_words())]
        try:
            await agent.start(await archive)
            process.channel.set_write_buffer_limits(high=_SEND_BUFFER_BYTES)
            beside += [asyncio.create_task(agent.listen()), asyncio.create_task(agent.keep_alive())]
            yield agent
        except asyncio.CancelledError:
            agent.cancel()
            raise
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
    finally:
        await close(connection)


@contextlib.contextmanager
def _cut(box: Box) -> Iterator[None]:
    """Say that the connection ended, however asyncssh says it."""
    try:
        yield
    except (asyncssh.Error, OSError, EOFError) as cause:
        raise ConnectionCutError(
            f"{box}: expected the connection to stay, found that it ended", hint="try again: it goes on there"
        ) from cause


async def _rest(stream: "asyncssh.SSHReader[bytes]") -> bytes:
    """What is left in a stream of a process that has ended."""
    with contextlib.suppress(TimeoutError, asyncssh.Error, OSError):
        return await asyncio.wait_for(stream.read(_LONGEST_WORDS_BYTES), 1)
    return b""


def _last_line(said: bytes) -> str:
    return said.decode(errors="replace").strip().rpartition("\n")[2]


def _reported(box: Box, value: dict[str, Any]) -> EdgephiError:
    """The error that an agent reported, of the most precise class that is known here."""
    said = read_message(Reported, value, where=f"{box}: ERROR")
    message, hint = f"{box}: {said.message[:_LONGEST_MESSAGE]}", said.hint[:_LONGEST_MESSAGE]
    return error_of(Reported(said.classes, message, hint), otherwise=TransportError)
