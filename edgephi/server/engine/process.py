"""The engine's process, as the server sees it: lines go in, messages come out, and it can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgephi.processes.child_process import child_command
from edgephi.server.engine.messages import (
    Echo,
    End,
    Failed,
    Finished,
    FromEngine,
    Piece,
    Progress,
    Ready,
    ToEngine,
    Warned,
    kind_of,
)

_STDIN, _STDOUT = 0, 1
# The server's key is no business of the engine's process.
_SECRETS = ("EDGEPHI_API_KEY",)


class _Line(msgspec.Struct, frozen=True):
    """A line of the engine's process: one of these is there."""

    piece: Piece | None = None
    progress: Progress | None = None
    echo: Echo | None = None
    finished: Finished | None = None
    end: End | None = None
    failed: Failed | None = None
    ready: Ready | None = None
    warned: Warned | None = None

    @property
    def message(self) -> FromEngine:
        """The one that is there."""
        message: FromEngine = next(each for each in msgspec.structs.astuple(self) if each is not None)
        return message


class EngineProcess(asyncio.SubprocessProtocol):
    """One process. `receive` is called with each message, as they come, from the event loop."""

    def __init__(self, receive: Callable[[FromEngine], None]) -> None:
        self._receive = receive
        self._decoder = msgspec.json.Decoder(_Line)
        self._unread = b""
        self._transport: asyncio.SubprocessTransport | None = None
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Its exit code, negative for a signal; done when everything that it said was received."""

    @classmethod
    async def start(cls, bundle: Path, receive: Callable[[FromEngine], None]) -> EngineProcess:
        """Start the process for the bundle in a folder. Its standard error is the server's."""
        starting = asyncio.ensure_future(
            asyncio.get_running_loop().subprocess_exec(
                lambda: cls(receive),
                # -P: a module of the user's working directory must not stand in for one of ours.
                *child_command([sys.executable, "-P", "-m", "edgephi.server.engine.worker", bundle]),
                stderr=None,
                start_new_session=True,  # Ctrl-C on a terminal is for the server alone
                env={name: value for name, value in os.environ.items() if name not in _SECRETS},
            )
        )
        try:
            transport, process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # asyncio reports an error of its own when it is left half-way; it takes milliseconds to the end.
            transport, process = await starting
            process._transport = transport
            transport.close()
            raise
        process._transport = transport
        return process

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._transport is not None  # noqa: S101 - for the type checker
        return self._transport.get_pid()

    def send(self, message: ToEngine) -> None:
        """Give it a message; one that has ended gets none."""
        assert self._transport is not None  # noqa: S101 - for the type checker
        pipe = self._transport.get_pipe_transport(_STDIN)
        assert isinstance(pipe, asyncio.WriteTransport)  # noqa: S101 - for the type checker
        if not pipe.is_closing():
            pipe.write(msgspec.json.encode({kind_of(message): message}) + b"\n")

    def kill(self) -> None:
        """End it at once, whatever it does."""
        if self._transport is not None and self._transport.get_returncode() is None:
            # Not the transport's own `kill`: it may take the exit code away from who waits for it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - asyncio's signature
        """Take in what it wrote."""
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            try:
                message = self._decoder.decode(line).message
            except (msgspec.DecodeError, UnicodeDecodeError, StopIteration):
                self.kill()  # it is not what it should be: start over
                return
            self._receive(message)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        """Without its output it is of no use."""
        if fd == _STDOUT:
            self.kill()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """It has ended, and its pipes are closed."""
        assert self._transport is not None  # noqa: S101 - for the type checker
        code = self._transport.get_returncode()
        if not self.ended.done():
            self.ended.set_result(-1 if code is None else code)
