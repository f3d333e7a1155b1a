"""The process that the engine of `serve` lives in: `python -P -m edgephi.server.engine.worker BUNDLE`.

Engines hold Python's lock for seconds, can crash and can hang; the HTTP server must do none of that, so it
talks to this process over pipes, in the lines of `edgephi.server.engine.messages`. Nobody else should
start it.

The main thread answers. Another one reads the pipe, and closes an answer that is not wanted any more: the
engine's Python sees that between two tokens, and between two pieces of a prompt.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import edgephi.runtime
from edgephi import errors
from edgephi.errors import BadInputError, CannotServeError, EdgephiError, UsageError, ends_engine
from edgephi.processes.reported import report
from edgephi.runtime.session import Options, Session
from edgephi.server.engine.channel import Channel
from edgephi.server.engine.image_parts import seen
from edgephi.server.engine.messages import FIRST_PROMPT, Ask, Failed, Open, Ready, Warned
from edgephi.server.engine.said import end_of, send_answer, told_to
from edgephi.server.engine.spare_memory import give_back_freed, give_back_memory
from edgephi.server.engine.texts import answer_texts
from edgephi.server.where_raised import where_raised

# When memory runs out all the same, the kernel should end this process and not its parent, which restarts it.
_OOM_SCORE = "500"


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
            channel.forget(request.id)
            if request.images:
                del request
                give_back_freed()
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
    try:
        if request.messages is None:
            answer_texts(session, request, channel)
        else:
            _answer_chat(session, request, request.messages, channel)
    except (UsageError, BadInputError, CannotServeError) as error:
        channel.send(_failed(error, request.id))
        if ends_engine(error):
            raise


def _answer_chat(
    session: Session, request: Ask, messages: tuple[dict[str, object], ...], channel: Channel
) -> None:
    start = time.monotonic()
    answer = session.answer(
        seen(messages, request.images, session.manifest.model.images),
        request.options,
        tools=request.tools,
        tool_choice=request.tool_choice,
        parallel_tool_calls=request.parallel_tool_calls,
        on_prefill=told_to(channel, request.id),
    )
    send_answer(answer, request.id, channel)
    channel.send(end_of(request.id, answer.generation, start))


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
