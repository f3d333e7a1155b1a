"""The process that the engine of `serve` lives in: `python -P -m edgephi.server.engine.worker BUNDLE`.

Engines hold Python's lock for seconds, can crash and can hang; the HTTP server must do none of that, so it
talks to this process over pipes, in the lines of `edgephi.server.engine.messages`. Nobody else should
start it.

The main thread answers. Another one reads the pipe, and closes an answer that is not wanted any more: the
engine's Python sees that between two tokens, and between two pieces of a prompt.
"""

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import edgephi.runtime
from edgephi import errors
from edgephi.errors import BadInputError, CannotServeError, EdgephiError, UsageError, ends_engine
from edgephi.processes.reported import report
from edgephi.records import read_record
from edgephi.runtime.session import Answer, Options, Session, TokenScore
from edgephi.server.engine.messages import (
    FIRST_PROMPT,
    Alternative,
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
    Warned,
    kind_of,
)
from edgephi.server.engine.spare_memory import give_back_memory
from edgephi.server.where_raised import where_raised

_READ_BYTES = 1 << 16
# When memory runs out all the same, the kernel should end this process and not its parent, which restarts it.
_OOM_SCORE = "500"
_LOWEST_LOGPROB = -9999.0  # what OpenAI's API has for tokens that all but cannot come


_encode = json.JSONEncoder(default=vars, ensure_ascii=False, separators=(",", ":")).encode


class Channel:
    """Messages from and to the parent, over two file descriptors. Without a parent the process ends."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._messages: queue.SimpleQueue[Open | Ask] = queue.SimpleQueue()
        # The two threads write these in opposite orders, so that one of them sees both.
        self._cancelled: set[int] = set()
        self._in_hand: tuple[int, Answer] | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, message: FromEngine) -> None:
        """Write one message."""
        line = _encode({kind_of(message): message}).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._outgoing, line) :]
        except BrokenPipeError:
            os._exit(0)

    def receive(self) -> Open | Ask:
        """The next message that is no Cancel; waits for it."""
        return self._messages.get()

    @contextlib.contextmanager
    def cancelling(self, request: int, answer: Answer) -> Iterator[None]:
        """Close the answer to a request when a Cancel comes, or has come."""
        self._in_hand = request, answer
        if request in self._cancelled:
            answer.close()
        try:
            yield
        finally:
            self._in_hand = None
            self._cancelled.discard(request)

    def _read(self) -> None:
        """What the reading thread does, for ever."""
        unread = b""
        while data := os.read(self._incoming, _READ_BYTES):
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                message = _decode(line)
                if not isinstance(message, Cancel):
                    self._messages.put(message)
                    continue
                self._cancelled.add(message.id)
                in_hand = self._in_hand
                if in_hand is not None and in_hand[0] == message.id:
                    in_hand[1].close()
        os._exit(0)


def main() -> int:
    """Load the bundle that the command line names, then answer one request after the other."""
    _leave_signals_to_parent()
    channel = _take_over_standard_streams()
    try:
        opening = channel.receive()
        assert isinstance(opening, Open)  # noqa: S101 - the parent's first message
        session = _open(Path(sys.argv[1]), opening, channel)
        while True:
            request = channel.receive()
            assert isinstance(request, Ask)  # noqa: S101 - all others are
            _answer(session, request, channel)
    except Exception as cause:
        channel.send(_failed(cause))
        return 1


def _open(bundle: Path, opening: Open, channel: Channel) -> Session:
    """Load the bundle, compute the system message, and generate the first token."""
    session = edgephi.runtime.load(
        bundle,
        context=opening.context,
        provider=opening.provider,
        cache_bytes=opening.cache_bytes,
        adapter=opening.adapter,
        warn=lambda text: channel.send(Warned(text)),
    )
    session.open_ahead()
    if opening.system:
        session.keep_ready(opening.system)
    session.generate(FIRST_PROMPT, Options(max_tokens=1, system=opening.system or ""))
    give_back_memory()
    engine = session.engine
    channel.send(Ready(engine.name, engine.version, engine.provider, session.context, session.load_seconds))
    return session


def _answer(session: Session, request: Ask, channel: Channel) -> None:
    """Answer one request. Raises what leaves the engine in a state that nobody should trust."""
    start = time.monotonic()
    try:
        answer = _begin(session, request, channel)
        with channel.cancelling(request.id, answer):
            for piece in answer.pieces():
                scores = tuple(map(_score, piece.scores))
                channel.send(Piece(request.id, piece.text, time.monotonic(), scores))
    except (UsageError, BadInputError, CannotServeError) as error:
        channel.send(_failed(error, request.id))
        if ends_engine(error):
            raise
        return
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


def _begin(session: Session, request: Ask, channel: Channel) -> Answer:
    """The answer to a request, of which nothing is computed yet."""

    def progress(done: int, total: int) -> None:
        channel.send(Progress(request.id, done, total))

    if request.messages is not None:
        return session.answer(request.messages, request.options, on_prefill=progress)
    return session.complete(request.text or "", request.options, on_prefill=progress)


def _score(score: TokenScore) -> Score:
    return Score(
        score.text,
        _finite(score.logprob),
        score.bytes,
        tuple(Alternative(each.text, _finite(each.logprob), each.bytes) for each in score.alternatives),
    )


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST_LOGPROB)  # JSON has no infinity


def _decode(line: bytes) -> Open | Ask | Cancel:
    """A message of the parent."""
    ((kind, fields),) = json.loads(line).items()
    record: type[Open | Ask | Cancel] = {"open": Open, "ask": Ask, "cancel": Cancel}[kind]
    return read_record(record, fields, where=kind, error=BadInputError, hint="please report this")


def _failed(cause: Exception, request: int | None = None) -> Failed:
    """What happened, in the words of our own errors."""
    if isinstance(cause, MemoryError):
        cause = errors.DoesNotFitError("the engine ran out of memory", hint="stop other programs")
    elif isinstance(cause, OSError):
        cause = errors.from_os_error(cause)
    elif not isinstance(cause, EdgephiError):
        cause = EdgephiError(f"bug in edgephi: {where_raised(cause)}", hint="please report this")
    return Failed(report(cause), request)


def _leave_signals_to_parent() -> None:
    """Be ended by the parent, in an orderly way, or with it; before others when memory runs out."""
    if sys.platform == "linux":
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
