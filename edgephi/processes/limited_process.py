"""A process of ours that does a stranger's work within limits of time and memory.

What a JSON schema or a chat template asks for can take minutes and gigabytes, in libraries that nobody can
interrupt: not Ctrl-C, and no other thread. In a process of its own it is ended when it takes too much, and
nothing else notices.

The process is `python -P -m MODULE DESCRIPTOR …`, whose `main` calls `answer_questions`. It ends with the
other end of its socket, and as every child of ours with its parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgephi.errors import BadInputError, CannotServeError, EdgephiError
from edgephi.processes.child_process import start_child
from edgephi.processes.reported import Reported, error_of, report
from edgephi.records import read_record, write_record

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Answer = Callable[[bytes], bytes]

_START_SECONDS = 60.0  # Python and a library, on a slow card
_END_SECONDS = 5.0
_WATCH_SECONDS = 0.05
_GOOD, _BAD = b"+", b"-"
_LONGEST_REASON = 200  # letters
_LARGEST_REPLY_BYTES = 64 << 20
_LOWEST_PRIORITY = 10  # of `nice`


class LimitReachedError(Exception):
    """What was asked takes more than is allowed, for the caller to explain. `limit` is like "5 s"."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


class LimitedProcess:
    """The near end. `memory_bytes` is what an answer may take beside what the process has at its start.

    With `in_background` it leaves the processor to others. Raises what preparing for questions raises.
    """

    def __init__(self, module: str, *arguments: str, memory_bytes: int, in_background: bool = False) -> None:
        from multiprocessing.connection import Connection

        self._memory_bytes = memory_bytes
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = start_child(
                # -P: a module of the user's working directory must not stand in for one of ours.
                [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(memory_bytes), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a library that runs out of memory says so, at length
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C is for us, who end it
            )
        self._connection = Connection(ours.detach())
        self._started_bytes: int | None = None
        self.close = weakref.finalize(self, _end, self._connection, self._process)
        """End the process, in the middle of an answer too."""
        if in_background:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, _LOWEST_PRIORITY)
        try:
            self._reply(_START_SECONDS)
            self._started_bytes = _resident_bytes(self._process.pid)
        except LimitReachedError as cause:
            raise CannotServeError(
                f"expected {module} to start, found that it ended or needs more than {cause.limit}",
                hint="stop other programs, then try again",
            ) from None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """End the process while another thread waits for its answer, and gets LimitReachedError."""
        self._process.kill()

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self.close.alive and self._process.poll() is None

    def ask(self, question: bytes, seconds: float) -> bytes:
        """Its answer.

        Raises the EdgephiError that the answer is, and LimitReachedError when it takes more than `seconds` or
        too much memory: then the process has ended.
        """
        try:
            self._connection.send_bytes(question)
        except OSError:
            raise self._ended() from None
        return self._reply(seconds)

    def _reply(self, seconds: float) -> bytes:
        try:
            self._wait(seconds)
            reply = self._connection.recv_bytes(_LARGEST_REPLY_BYTES)
        except (EOFError, OSError):
            raise self._ended() from None
        except BaseException:  # Ctrl-C: what it does is of no use any more
            self.close()
            raise
        if reply[:1] == _GOOD:
            return reply[1:]
        said = json.loads(reply[1:])
        raise error_of(
            read_record(Reported, said, where="its error", error=BadInputError, hint="please report this")
        )

    def _wait(self, seconds: float) -> None:
        """Wait for a reply. The process limits its own memory; where it is not allowed to, we look at it."""
        end = time.monotonic() + seconds
        while not self._connection.poll(max(0.0, min(_WATCH_SECONDS, end - time.monotonic()))):
            if time.monotonic() >= end:
                self.close()
                raise LimitReachedError(f"{seconds:g} s")
            if self._started_bytes is None:
                continue
            if _resident_bytes(self._process.pid) - self._started_bytes > self._memory_bytes:
                raise self._ended()

    def _ended(self) -> LimitReachedError:
        """Its own ending: what libraries do when there is no memory for them, or no stack."""
        self.close()
        return LimitReachedError(f"{self._memory_bytes >> 20} MB of memory")


def _resident_bytes(pid: int) -> int:
    """Memory that a process holds now; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _end(connection: Connection, process: subprocess.Popen[bytes]) -> None:
    connection.close()
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)


def answer_questions(prepare: Callable[[list[str]], Answer]) -> None:
    """The far end: answer one question after the other until the other end is closed.

    `prepare` is given the arguments after the descriptor and the limit, and loads what answers need: the
    limit of memory begins after it.
    """
    from multiprocessing.connection import Connection

    descriptor, memory_bytes, *arguments = sys.argv[1:]
    with Connection(int(descriptor)) as connection, contextlib.suppress(EOFError, OSError):
        try:
            answer = prepare(arguments)
        except EdgephiError as error:
            connection.send_bytes(_bad(error))
            return
        _limit_memory(int(memory_bytes))
        connection.send_bytes(_GOOD)
        while True:
            question = connection.recv_bytes()
            connection.send_bytes(_reply(answer, question))


def _reply(answer: Answer, question: bytes) -> bytes:
    try:
        return _GOOD + answer(question)
    except EdgephiError as error:
        return _bad(error)
    except MemoryError:
        os._exit(1)  # the limit, which the other end knows
    except BaseException as cause:  # a library of another language has its own, and they end nothing here
        found = " ".join(str(cause).split())[:_LONGEST_REASON] or type(cause).__name__
        return _bad(BadInputError(f"expected work that can be done, found: {found}", hint="change it"))


def _bad(error: EdgephiError) -> bytes:
    return _BAD + json.dumps(write_record(report(error))).encode()


def _limit_memory(more: int) -> None:
    """Let this process take so many bytes more than it has, and leave no file when it fails."""
    import resource

    # Not every system has every limit, and a hardened service may not set any: then the other end watches.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
