"""The one way to ask a process of ours something.

The question is a record whose class lies in the module that answers it: `python -P -m MODULE` is started, and
reads the record as one line of JSON from standard input. Its `__main__` part is `answer(Question, work)`. It
writes lines to standard output, which nobody else can write to any more:

    edgephi-answers/1           first of all: it speaks this protocol. What comes before is not ours
    {"done": 32}                so much more of the work, where `work` tells of it
    {"answer": {…}}             the answer as a record; or
    {"error": {…}}              the error that it ends with, see `edgephi.processes.reported`

and ends with 0, or with the error's exit code. An exception that is no error of ours comes back as a bug with
its text. The process ends with us, as every child; elsewhere than on Linux, when it next writes a line.

Both ends are mostly of one edgephi. Where they may not be, as on a box, who asks must be ready for a process
that does not know the module or the protocol: `NoAnswerError.is_understood`. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self, TextIO, TypeVar

from edgephi.errors import BadInputError, CannotServeError, DoesNotFitError, EdgephiError, from_os_error
from edgephi.processes.answer_stream import take_standard_output
from edgephi.processes.child_process import start_child
from edgephi.processes.ending import ending
from edgephi.processes.exchange import Exchange, NotInTimeError
from edgephi.processes.reported import Reported, error_of, report
from edgephi.records import read_record, write_record

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Done = Callable[[int], None]

_GREETING = "edgephi-answers/1"
_REPORT = "please report this"
_LONGEST_LINE_BYTES = 64 << 20
_LONGEST_SHOWN = 80


class NoAnswerError(Exception):
    """The process gave no answer.

    `how` says so in words that follow "the process", such as "was killed by signal 9 (SIGKILL)". `code` is
    its exit code as `subprocess` has it; None when it took too long, 0 when it said what nobody understands.
    `said` is what it wrote to standard error. `is_understood`: it greeted us, so that it has the module and
    speaks the protocol.
    """

    def __init__(self, how: str, *, code: int | None, said: str, is_understood: bool) -> None:
        super().__init__(how)
        self.how = how
        self.code = code
        self.said = said
        self.is_understood = is_understood

    def told(self, who: str, hint: str) -> EdgephiError:
        """The same as an error of ours: `who` begins the message, and `hint` helps against a signal."""
        if self.code == -signal.SIGKILL:  # by the kernel, when memory runs out
            return DoesNotFitError(f"{who} {self.how}", hint=hint)
        if self.code is None or self.code < 0:
            return CannotServeError(f"{who} {self.how}", hint=hint)
        last = self.said.strip().rpartition("\n")[2]
        bug = EdgephiError(f"bug in edgephi: {who} {self.how}{': ' if last else ''}{last}", hint=_REPORT)
        bug.add_note(self.said)  # for `--debug`
        return bug


def ask(
    question: object,
    answer: type[Answer],
    *,
    who: str,
    hint: str,
    seconds: float | None = None,
    done: Done | None = None,
    cwd: Path | None = None,
) -> Answer:
    """Have a process of its own answer a question.

    `done` is told of its progress. Raises the error that it ended with; when it ended otherwise one that
    begins with `who`: DoesNotFitError when it was killed, CannotServeError for another signal and after
    `seconds`, both with `hint`, and EdgephiError, a bug, for all else.
    """
    with Asked(question, cwd=cwd) as asked:
        try:
            return asked.answer(answer, seconds=seconds, done=done)
        except NoAnswerError as cause:
            raise cause.told(who, hint) from None


class Asked:
    """A process that has been asked, and ends with the block.

    `interpreter` is the Python that starts it, this one by default. With `own_session` what it starts itself
    ends with it, and the terminal's Ctrl-C does not reach it.
    """

    def __init__(
        self,
        question: object,
        *,
        interpreter: str | None = None,
        cwd: Path | None = None,
        own_session: bool = False,
    ) -> None:
        # -P: a module of the user's working directory must not stand in for one of ours.
        command = [interpreter or sys.executable, "-P", "-m", type(question).__module__]
        self._own_session = own_session
        self.process: subprocess.Popen[bytes] = start_child(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            start_new_session=own_session,
        )
        self.said = ""
        """The last that it wrote to standard error; known when it has ended."""
        self._exchange = Exchange(self.process, json.dumps(write_record(question)).encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        end_process(self.process, own_session=self._own_session)

    def answer(
        self,
        answer: type[Answer],
        *,
        seconds: float | None = None,
        done: Done | None = None,
        look: Callable[[], object] | None = None,
        look_seconds: float = 1.0,
    ) -> Answer:
        """Wait for the answer; the process has ended then.

        `look` is called every `look_seconds`, and gives up waiting by what it raises. Raises the error that
        the process ended with, and NoAnswerError when there is neither.
        """
        lines = _Lines(done)
        code: int | None = None
        try:
            words = self._exchange.to_the_end(
                lines.take, seconds=seconds, look=look, look_seconds=look_seconds
            )
            self.said = words.decode(errors="replace")
            code = self.process.returncode
            if lines.error is not None:
                raise _told(lines.error, self.said)
            if code == 0 and lines.answer is not None:
                return _read(answer, lines.answer)
            how = ending(code) if code else "ended without an answer"
        except NotInTimeError:
            how = f"gave no answer within {seconds:g} s"
        except _NonsenseError as cause:
            how, code = f"gave no answer that can be read ({cause})", 0
        raise NoAnswerError(how, code=code, said=self.said, is_understood=lines.is_greeted)


def end_process(process: subprocess.Popen[bytes], *, own_session: bool = False) -> None:
    """Kill a process, and its session where it has one; its pipes are closed."""
    if own_session:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    with process:
        process.kill()


class _NonsenseError(Exception):
    """What is not of the protocol."""


def _read(record: type[Answer], data: object) -> Answer:
    """A record of the far end's. Raises _NonsenseError for other data."""
    try:
        return read_record(record, data, where="answer", error=BadInputError, hint=_REPORT)
    except BadInputError as cause:
        raise _NonsenseError(cause.message) from None


def _told(reported: Reported, said: str) -> EdgephiError:
    """The error of the far end."""
    error = error_of(reported)
    if type(error) is EdgephiError:
        error.add_note(said)  # where it was raised, for `--debug`
    return error


@dataclass(frozen=True)
class _Line:
    """A line of the protocol: one of these is there. What an answer holds, its own record tells."""

    done: int | None = None
    answer: dict[str, object] | None = None
    error: Reported | None = None


class _Lines:
    """What the lines of a process say, as they come. `answer` holds the plain data of one, if it came."""

    def __init__(self, done: Done | None) -> None:
        self._done = done
        self._unread = b""
        self.is_greeted = False
        self.answer: dict[str, object] | None = None
        self.error: Reported | None = None

    def take(self, data: bytes) -> None:
        *lines, self._unread = (self._unread + data).split(b"\n")
        if len(self._unread) > _LONGEST_LINE_BYTES:
            raise _NonsenseError("found a line without an end")
        for line in lines:
            if self.is_greeted:
                self._read(line)
            else:
                self.is_greeted = line == _GREETING.encode()

    def _read(self, line: bytes) -> None:
        try:
            said = _read(_Line, json.loads(line))
        except (ValueError, RecursionError):
            shown = repr(line[:_LONGEST_SHOWN].decode(errors="replace"))
            raise _NonsenseError(f"found {shown}") from None
        if said.done is not None and self._done is not None:
            self._done(said.done)
        if said.answer is not None:
            self.answer = said.answer
        if said.error is not None:
            self.error = said.error


def answer(question: type[Question], work: Callable[[Question, Done], object]) -> NoReturn:
    """The far end, for the `__main__` part of a module: do what is asked, answer, and end.

    `work` gets the question and a function to tell of progress with, and returns the answer as a record.
    """
    with take_standard_output() as stream:
        code = _answer(question, work, stream)
    sys.exit(code)


def _answer(question: type[Question], work: Callable[[Question, Done], object], stream: TextIO) -> int:
    def say(kind: str, value: Any) -> None:
        try:
            print(json.dumps({kind: value}), file=stream)
        except BrokenPipeError:  # who asked was killed: nobody waits for this
            os._exit(1)

    try:
        print(_GREETING, file=stream)
        asked = read_record(
            question, json.load(sys.stdin), where="question", error=BadInputError, hint=_REPORT
        )
        say("answer", write_record(work(asked, lambda units: say("done", units))))
    except EdgephiError as caught:
        error = caught
    except OSError as cause:
        error = from_os_error(cause)
    except MemoryError:
        error = DoesNotFitError("memory ran out", hint="stop other programs, then try again")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as cause:  # libraries of another language have some that are no Exception
        traceback.print_exc()
        text = " ".join(f"{type(cause).__name__}: {cause}".split())
        error = EdgephiError(f"bug in edgephi: {text}", hint=_REPORT)
    else:
        return 0
    say("error", write_record(report(error)))
    return error.exit_code
