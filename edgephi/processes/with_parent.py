"""Becomes another program, which ends when its parent does, however that ends.

Started as `python -m edgephi.processes.with_parent PARENT module NAME …`, or by its text where Python knows
no edgephi: `python -c TEXT PARENT program WORD …`. See `edgephi.processes.child_process`. It must be quick,
and needs only Python.
"""

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
_NOT_EXECUTABLE = 126  # as a shell says it


def main() -> None:
    """Become what the command line names: a Python module, a program, or one with all that it starts."""
    parent, kind, *words = sys.argv[1:]
    if kind != "module" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _end_with(int(parent), signal.SIGTERM if kind == "group" else signal.SIGKILL)
    if kind == "module":
        import runpy

        sys.argv[1:] = words[1:]
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        return
    if kind == "group":
        _lead(int(parent))
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and a program inherits that
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(words[0], words)  # noqa: S606 - no shell is wanted
    except OSError as cause:
        os.write(2, f"{words[0]}: {cause.strerror}\n".encode(errors="replace"))
        os._exit(_NOT_EXECUTABLE)


def _end_with(parent: int, number: int) -> None:
    """Have the kernel send this process a signal when its parent ends; end now if it has ended before."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    except (ImportError, OSError, AttributeError):  # then it outlives its parent, as any process does
        return
    if os.getppid() != parent:
        os._exit(128 + number)


def _lead(parent: int) -> None:
    """Return in another process; this one is told of the parent's end, and kills the whole group then."""
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return
    if os.getppid() != parent:  # before the handler was there
        os.killpg(0, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
