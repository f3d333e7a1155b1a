"""The process that the engine of `edgephi serve` lives in: `python -P -m edgephi.runtime.worker BUNDLE`.

Engines hold Python's lock for seconds, can crash and can hang; the HTTP server must do none of that, so it
talks to this process over pipes, in the lines of `edgephi.runtime.server.messages`. Nobody else should
start it.

There is one thread. Between two tokens, and between two pieces of a prompt, it looks whether a Cancel has
come.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections import deque
from pathlib import Path

import msgspec

import edgephi.runtime
import edgephi.runtime.worker_bridge  # until Session has it all
from edgephi import errors
from edgephi.errors import BadBundleError, BadInputError, CannotServeError, EdgephiError, UsageError
from edgephi.runtime.server.log import where_raised
from edgephi.runtime.server.messages import (
    FIRST_PROMPT,
    Ask,
    Cancel,
    End,
    Failed,
    FromEngine,
    Open,
    Piece,
    Progress,
    Ready,
    Score,
    ToEngine,
    Warned,
    encode_line,
)
from edgephi.runtime.session import Answer, Options, Session

_READ_BYTES = 1 << 16
_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
# When memory runs out all the same, the kernel should end this process and not its parent, which restarts it.
_OOM_SCORE = "500"


class _ParentGone(Exception):  # noqa: N818 - not an error: the end of this process's work
    """The other ends of the pipes are closed."""


class _Cancelled(Exception):  # noqa: N818 - what was asked for
    """The request in hand is not wanted any more."""


class Channel:
    """Messages from and to the parent, over two file descriptors."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._decoder: msgspec.json.Decoder[ToEngine] = msgspec.json.Decoder(ToEngine)
        self._unread = b""
        self._waiting: deque[ToEngine] = deque()
        self._cancelled: set[int] = set()

    def send(self, message: FromEngine) -> None:
        """Write one message. Raises _ParentGone."""
        line = encode_line(message)
        try:
            while line:
                line = line[os.write(self._outgoing, line) :]
        except BrokenPipeError:
            raise _ParentGone from None

    def receive(self) -> ToEngine:
        """The next message that is no Cancel; waits for it. Raises _ParentGone at the end."""
        while not self._waiting:
            self._read()
        return self._waiting.popleft()

    def check(self, request: int) -> None:
        """Raise _Cancelled when a request is not wanted any more. Does not wait."""
        while select.select([self._incoming], [], [], 0)[0]:
            self._read()
        if request in self._cancelled:
            raise _Cancelled

    def forget_cancels(self) -> None:
        """What was cancelled is over."""
        self._cancelled.clear()

    def _read(self) -> None:
        data = os.read(self._incoming, _READ_BYTES)
        if not data:
            raise _ParentGone
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            message = self._decoder.decode(line)
            if isinstance(message, Cancel):
                self._cancelled.add(message.id)
            else:
                self._waiting.append(message)


def main() -> int:
    """Load the bundle that the command line names, then answer one request after the other."""
    _live_with_parent()
    channel = _take_over_standard_streams()
    try:
        opening = channel.receive()
        assert isinstance(opening, Open)  # noqa: S101 - the parent's first message
        session = _open(Path(sys.argv[1]), opening, channel)
        while True:
            request = channel.receive()
            assert isinstance(request, Ask)  # noqa: S101 - Cancel never comes out of `receive`
            _answer(session, request, channel)
            channel.forget_cancels()
    except _ParentGone:
        return 0
    except Exception as cause:
        with contextlib.suppress(_ParentGone):
            channel.send(_failed(cause))
        return 1


def _open(bundle: Path, opening: Open, channel: Channel) -> Session:
    """Load the bundle, compute the system message, and generate the first token."""
    session = edgephi.runtime.load(
        bundle,
        context=opening.context,
        provider=opening.provider,
        cache_bytes=opening.cache_bytes,
        warn=lambda text: channel.send(Warned(text)),
    )
    if opening.system:
        session.keep_ready(opening.system)
    answer = session.answer([{"role": "user", "content": FIRST_PROMPT}], Options(max_tokens=1))
    for _ in answer:
        pass
    channel.send(
        Ready(
            engine=session.engine.name,
            version=session.engine.version,
            provider=session.engine.provider,
            context=session.context,
            load_seconds=session.load_seconds,
            prefill_tokens_per_second=answer.generation.prefill_tokens_per_second,
        )
    )
    return session


def _answer(session: Session, request: Ask, channel: Channel) -> None:
    """Answer one request. Raises what leaves the engine in a state that nobody should trust."""
    start = time.monotonic()

    def progress(done: int, total: int) -> None:
        channel.send(Progress(request.id, done, total))
        channel.check(request.id)

    def end(reason: str) -> End:
        return End(request.id, reason, time.monotonic() - start)

    answer: Answer | None = None
    try:
        options = Options(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            seed=request.seed,
            stop=request.stop,
            logprobs=request.logprobs,
            json_schema=request.json_schema,
        )
        if request.messages is not None:
            answer = session.answer(request.messages, options, on_prefill=progress)
        else:
            answer = session.complete(request.text or "", options, on_prefill=progress)
        for piece in answer.pieces():
            scores = tuple(Score(**vars(score)) for score in piece.scores)
            channel.send(Piece(request.id, piece.text, time.monotonic(), scores))
            channel.check(request.id)
    except _Cancelled:
        if answer is not None:
            answer.close()
        channel.send(end("cancelled"))
    except (UsageError, BadInputError, CannotServeError) as error:
        channel.send(_failed(error, request.id))
        if isinstance(error, BadBundleError):  # the engine failed in the middle of its work
            raise
    else:
        numbers = answer.generation
        channel.send(
            End(
                id=request.id,
                stop_reason=numbers.stop_reason,
                engine_seconds=time.monotonic() - start,
                prompt_tokens=numbers.prompt_tokens,
                reused_tokens=numbers.reused_tokens,
                generated_tokens=numbers.generated_tokens,
                first_token_seconds=numbers.first_token_seconds,
                prefill_tokens_per_second=numbers.prefill_tokens_per_second,
                decode_tokens_per_second=numbers.decode_tokens_per_second,
            )
        )


def _failed(cause: Exception, request: int | None = None) -> Failed:
    """What happened, in the words of our own errors."""
    if isinstance(cause, MemoryError):
        cause = errors.DoesNotFitError("the engine ran out of memory", hint="stop other programs")
    elif isinstance(cause, OSError):
        cause = errors.from_os_error(cause)
    elif not isinstance(cause, EdgephiError):
        cause = EdgephiError(f"bug in edgephi: {where_raised(cause)}", hint="please report this")
    return Failed(type(cause).__name__, cause.message, cause.hint, request)


def _live_with_parent() -> None:
    """End when the parent ends, however it does; leave it to the parent to end in an orderly way."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    # Ctrl-C and service managers signal all processes at once. The parent still wants its answers.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _take_over_standard_streams() -> Channel:
    """The pipes to the parent. What libraries print goes to standard error instead."""
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return Channel(incoming, outgoing)


if __name__ == "__main__":
    sys.exit(main())
