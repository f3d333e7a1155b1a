"""The one way to start a process: it ends when we do, however we end.

Whoever is killed tells nobody. So a child is started by way of `edgephi.processes.with_parent`, which asks
the kernel to kill it with its parent (PR_SET_PDEATHSIG) and then becomes what is meant. The kernel takes a
thread's end for the parent's: therefore a thread that lasts starts the children of those that may not. Linux
only; elsewhere, and where our Python may not be executed, a child is merely started. Standard library only.
"""

import errno
import functools
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgephi.processes import with_parent

_NO_SUCH_PROGRAM = os.strerror(errno.ENOENT)

Word = str | os.PathLike[str]


def child_command(words: Sequence[Word], *, with_its_own: bool = False) -> list[str]:
    """The command to start in place of `words`, by a thread that lasts as long as the child shall.

    With `with_its_own`, what the child itself starts ends with us too: it must be given a session or a group
    of its own.
    """
    plain = [os.fspath(word) for word in words]
    # The Python beneath a virtual environment: it needs no packages.
    python = getattr(sys, "_base_executable", None) or sys.executable
    # A process that has become another user may not start the Python that it came from.
    if sys.platform != "linux" or not python or not os.access(python, os.X_OK):
        return plain
    parent = str(os.getpid())
    is_ours = plain[:3] == [sys.executable, "-P", "-m"] and plain[3].startswith("edgephi.")
    # As an agent on a box we come out of an archive, and the edgephi of that Python may be another.
    if is_ours and Path(with_parent.__file__ or "").is_file():
        return [*plain[:3], with_parent.__name__, parent, "module", *plain[3:]]
    kind = "group" if with_its_own else "program"
    return [python, "-I", "-S", "-c", _starter(), parent, kind, *plain]


@functools.cache
def _starter() -> str:
    """The text of the starter: a Python that is about to become something else need not know edgephi."""
    loader: Any = with_parent.__spec__.loader if with_parent.__spec__ else None  # of a folder or an archive
    return str(loader.get_source(with_parent.__name__))


def start_child(
    words: Sequence[Word], *, with_its_own: bool = False, **options: Any
) -> "subprocess.Popen[Any]":
    """Start a process with the options of `subprocess.Popen`. Raises FileNotFoundError and what that does."""
    _check_program(words[0], options)
    command = child_command(words, with_its_own=with_its_own)
    return _from_a_lasting_thread(lambda: subprocess.Popen(command, **options))


def run_child(words: Sequence[Word], **options: Any) -> "subprocess.CompletedProcess[Any]":
    """Run a process to its end with the options of `subprocess.run`; raises as `start_child` does.

    Its exit code is 126 when the program cannot be executed.
    """
    _check_program(words[0], options)
    return subprocess.run(child_command(words), check=False, **options)  # this thread waits for it


def _check_program(program: Word, options: dict[str, Any]) -> None:
    """Raise FileNotFoundError where there is no such program, as the system would."""
    if os.path.dirname(program):  # noqa: PTH120 - a word, as the system looks at it
        is_there = (Path(options.get("cwd") or ".") / program).exists()
    else:
        is_there = shutil.which(program, path=(options.get("env") or os.environ).get("PATH")) is not None
    if not is_there:
        raise FileNotFoundError(errno.ENOENT, _NO_SUCH_PROGRAM, os.fspath(program))


_Start = Callable[[], "subprocess.Popen[Any]"]
_Answer = queue.SimpleQueue["subprocess.Popen[Any] | BaseException"]
_mutex = threading.Lock()
_waiting: dict[int, queue.SimpleQueue[tuple[_Start, _Answer]]] = {}
"""What the lasting thread shall start, by the process that it is of: a fork has none of its own yet."""


def _from_a_lasting_thread(start: _Start) -> "subprocess.Popen[Any]":
    if sys.platform != "linux" or threading.current_thread() is threading.main_thread():
        return start()
    with _mutex:
        waiting = _waiting.get(os.getpid())
        if waiting is None:
            waiting = _waiting[os.getpid()] = queue.SimpleQueue()
            threading.Thread(target=_start_all, args=(waiting,), daemon=True, name="starts-children").start()
    answer: _Answer = queue.SimpleQueue()
    waiting.put((start, answer))
    started = answer.get()
    if isinstance(started, BaseException):
        raise started
    return started


def _start_all(waiting: queue.SimpleQueue[tuple[_Start, _Answer]]) -> None:
    while True:
        start, answer = waiting.get()
        try:
            answer.put(start())
        except BaseException as cause:
            answer.put(cause)
