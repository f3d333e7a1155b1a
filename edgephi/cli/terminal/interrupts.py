"""Ctrl-C and the other signals that end a command, acted on where Python can be left at once.

Python acts on a signal between two steps of whatever it runs. In the middle of an import that leaves half a
module, or a C++ extension that is initialised to one half: onnx's crashed later, or at once. An exception out
of Python that C++ has called crosses code which may not know exceptions. And one out of `exec`, with which
dataclasses are made, has Python kill itself with the signal when it ends, instead of giving an exit code.
One out of what the interpreter calls by itself, as when an object goes away, is printed and lost, and the
command goes on. One out of what a loop of asyncio calls is logged, or kept for whoever looks at a task, and
the command goes on as well, and a loop that is made to one half complains when it goes. So while a module is
imported, code of such an extension's package runs, an object goes, a loop is made or has something called, a
signal waits, and is looked at again in a moment.
"""

import atexit
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from edgephi.processes.uninterrupted import is_uninterrupted

_SIGNALLED = 128  # what a shell adds to the number of the signal that ended a process
# A service manager or the end of a remote shell ends a command as tidily as Ctrl-C does.
_ENDING = (signal.SIGTERM, signal.SIGHUP)
# Code whose frames may have that of a C++ extension, or the interpreter itself, beneath them.
_LEFT_ALONE = ("importlib", "_frozen_importlib", "zipimport", "onnx", "google", "weakref", "_weakrefset")
_LEFT_ALONE_NAME = "__del__"
_CALLED_BY_A_LOOP = ("asyncio.events", "_run")
_AGAIN_SECONDS = 0.01
_LONGEST_WAIT_SECONDS = 5.0  # then a signal works as it does anywhere, whatever it breaks


class Ended(BaseException):
    """One of the ending signals has come; passes through everything, cleaning up on its way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = _SIGNALLED + number


INTERRUPTED = _SIGNALLED + signal.SIGINT
"""The exit code after Ctrl-C."""


def handle_ending_signals() -> None:
    """From here on, Ctrl-C raises KeyboardInterrupt and the other signals Ended, each at a good moment.

    One that is ignored, as `nohup` has it, stays so.
    """
    atexit.register(_ignore_interrupts)  # the first that is registered runs last
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _exit):
        signal.signal(signal.SIGINT, _at_a_good_moment(_interrupt))
    for number in _ENDING:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _at_a_good_moment(_end))


def let_go_of_signals() -> None:
    """From here on a signal ends the process at once: nothing has begun, or all that is left is to exit.

    One that waits is dropped: what it could have ended is done.
    """
    if callable(signal.getsignal(signal.SIGALRM)):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, _pass_over)  # it may have come just now
    for number in (signal.SIGINT, *_ENDING):
        if callable(signal.getsignal(number)):
            signal.signal(number, _exit)


def _at_a_good_moment(act: Callable[[int], None]) -> Callable[[int, FrameType | None], None]:
    """A handler that does `act` once the frame that a signal has come upon may be left."""
    since = 0.0  # when the signal came that waits

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal since
        if since and _is_handled_otherwise(number, handle):
            since = 0.0
            signal.raise_signal(number)
            return
        now = time.monotonic()
        if _may_be_left(frame) or (since and now - since > _LONGEST_WAIT_SECONDS):
            since = 0.0
            act(number)
            return
        since = since or now
        _look_again(number, handle)

    return handle


def _look_again(number: int, handle: Callable[[int, FrameType | None], None]) -> None:
    signal.signal(signal.SIGALRM, lambda _number, frame: handle(number, frame))
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)


def _is_handled_otherwise(number: int, handle: Callable[[int, FrameType | None], None]) -> bool:
    """Whether somebody else handles the signal now, such as a loop that has begun since it came."""
    handler = signal.getsignal(number)
    return callable(handler) and handler is not handle


def _may_be_left(frame: FrameType | None) -> bool:
    while frame is not None:
        module, name = str(frame.f_globals.get("__name__", "")), frame.f_code.co_name
        if module.partition(".")[0] in _LEFT_ALONE or name == _LEFT_ALONE_NAME or is_uninterrupted(frame):
            return False
        if (module, name) == _CALLED_BY_A_LOOP or (module.startswith("asyncio.") and name == "__init__"):
            return False
        frame = frame.f_back
    return True


def _interrupt(_number: int) -> NoReturn:
    raise KeyboardInterrupt


def _end(number: int) -> NoReturn:
    raise Ended(number)


def _ignore_interrupts() -> None:
    """What is left of Python's own exit takes handlers away: Ctrl-C would end it by the signal."""
    if callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _pass_over(_number: int, _frame: FrameType | None) -> None:
    """Do nothing, where Python would complain about a handler that has gone."""


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(_SIGNALLED + number)
