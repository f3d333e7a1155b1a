"""The agent on a box, seen from here: started over a connection, asked for one thing, ended."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncssh

import edgephi.errors
from edgephi.errors import EdgephiError, NotSupportedError, TransportError
from edgephi.flash.agent_archive import NO_PYTHON, OLD_PYTHON, OLDEST_PYTHON, agent_archive, start_command
from edgephi.flash.connection import ConnectionCutError, close, connect
from edgephi.flash.destination import Box
from edgephi.flash.rate_limit import RateLimit
from edgephi.store.frames import HEADER, MAGIC, PING_SECONDS, Kind, frame, frame_of, read_header, read_value

_START_SECONDS = 60.0
_LONGEST_GREETING_BYTES = 64 << 10
_LONGEST_WORDS_BYTES = 4096
_NOT_FOUND = 127
_SEND_BUFFER_BYTES = 256 << 10


class Agent:
    """A running agent. Frames of the box come out of `receive`; everything raises TransportError."""

    def __init__(self, box: Box, process: "asyncssh.SSHClientProcess[bytes]", limit: RateLimit) -> None:
        self._box = box
        self._process = process
        self._limit = limit
        self._sending = asyncio.Lock()
        self._greeting = b""

    async def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Send a frame, at the rate that is allowed."""
        await self._write(frame(kind, payload))

    async def send_value(self, kind: Kind, value: Any) -> None:
        """Send a frame with a value as JSON."""
        await self._write(frame_of(kind, value))

    async def send_chunk(self, head: bytes, data: memoryview) -> None:
        """Send a chunk. When this returns, `data` may be used again."""
        await self._write(HEADER.pack(Kind.CHUNK, len(head) + len(data)) + head, data)

    async def receive(self) -> tuple[Kind, dict[str, Any]]:
        """The next frame and its value. Raises what the agent reports, and ConnectionCutError at the end."""
        try:
            with _cut(self._box):
                kind, length = read_header(await self._process.stdout.readexactly(HEADER.size))
                payload = await self._process.stdout.readexactly(length)
        except ConnectionCutError as cause:
            raise await self._why_it_ended() or cause from None
        value = read_value(payload) if payload else {}
        if kind == Kind.ERROR:
            raise _reported(self._box, value)
        return kind, value

    async def start(self, archive: bytes) -> dict[str, Any]:
        """Send the agent, an archive, and wait for its first word, which says what the box is."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._write(archive)
                await self._skip_greeting()
        except (ConnectionCutError, TimeoutError) as cause:
            raise await self._why_not_started() from cause
        kind, value = await self.receive()
        if kind != Kind.READY:
            raise TransportError(f"{self._box}: expected READY, found {kind.name}", hint="try again")
        return value

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

    async def _skip_greeting(self) -> None:
        """Read up to the agent's magic word: the user's shell may say something before."""
        while not self._greeting.endswith(MAGIC):
            if len(self._greeting) > _LONGEST_GREETING_BYTES:
                raise TransportError(
                    f"{self._box}: expected edgephi's agent, found {self._greeting[:60]!r}",
                    hint="see what the shell there prints: it must end by itself",
                )
            with _cut(self._box):
                self._greeting += await self._process.stdout.readuntil(b"\n")

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
        said = self._greeting + await _rest(self._process.stdout)
        last = _last_line(await _rest(self._process.stderr))
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
        with _cut(box):
            process: asyncssh.SSHClientProcess[bytes] = await connection.create_process(
                start_command(), encoding=None, request_pty=False, stderr=asyncssh.PIPE
            )
        process.channel.set_write_buffer_limits(high=_SEND_BUFFER_BYTES)
        agent = Agent(box, process, limit)
        await agent.start(await archive)
        pinging = asyncio.create_task(agent.keep_alive())
        try:
            yield agent
        except asyncio.CancelledError:
            agent.cancel()
            raise
        finally:
            pinging.cancel()
            with contextlib.suppress(asyncio.CancelledError, TransportError):
                await pinging
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
    names, message, hint = value.get("classes"), value.get("message"), value.get("hint")
    for name in names if isinstance(names, list) else ():
        kind = getattr(edgephi.errors, str(name), None)
        if isinstance(kind, type) and issubclass(kind, EdgephiError):
            return kind(f"{box}: {message}", hint=str(hint))
    return TransportError(f"{box}: {message}", hint=str(hint))
