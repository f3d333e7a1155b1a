"""Standard input, output and error as a caller may leave them: closed, on a full disk, without a reader."""

import errno
import io
import os
import sys
from typing import Any, TextIO

from edgephi.errors import EdgephiError, UsageError, from_os_error

_OUTPUT, _ERROR = "standard output", "standard error"


def open_standard_streams() -> None:
    """Have the numbers 0, 1 and 2 be open, and what goes wrong with one of them be told by its name.

    A file that is opened while one of them is closed would get its number, and then what is printed. A
    closed input stays None in `sys`. Raises UsageError when standard output is closed: what a command prints
    would be lost in silence.
    """
    for number in range(3):
        _open(number)
    sys.stderr = _rewritten(sys.stderr, _Said(2, _ERROR))
    if sys.stdout is None:
        raise UsageError(
            f"expected {_OUTPUT} to be open, found it closed",
            hint="send it to /dev/null when nobody shall read it",
        )
    sys.stdout = _rewritten(sys.stdout, _Named(1, _OUTPUT))


def output_problem() -> EdgephiError | None:
    """Write what is still buffered; why that cannot be done, None when it is.

    What cannot be written is dropped: Python would complain about it when it ends.
    """
    if sys.stdout is None:
        return None
    try:
        sys.stdout.flush()
    except OSError as cause:
        drop_output()
        return None if cause.errno == errno.EPIPE else from_os_error(cause)
    return None


def drop_output() -> None:
    """Send what is printed, and what is still buffered, nowhere from here on."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_reader_gone(cause: OSError) -> bool:
    """Whether an error says that nobody reads what we print; a pipe to another process may break, too."""
    return cause.errno == errno.EPIPE and cause.filename in (_OUTPUT, _ERROR)


class _Named(io.FileIO):
    """An open file whose errors tell its name."""

    def __init__(self, number: int, called: str) -> None:
        super().__init__(number, "w", closefd=False)
        self._called = called

    def write(self, data: Any) -> int:
        """Write as much as can be written at once."""
        try:
            return super().write(data)
        except OSError as cause:
            cause.filename = self._called
            raise


class _Said(_Named):
    """Where a full disk or a terminal that is gone takes what is said beside the work, which goes on.

    A pipe without a reader is an error still: it ends `edgephi … 2>&1 | head`.
    """

    def write(self, data: Any) -> int:
        """Write as much as can be written at once."""
        try:
            return super().write(data)
        except OSError as cause:
            if cause.errno == errno.EPIPE:
                raise
            return memoryview(data).nbytes


def _rewritten(stream: TextIO | None, file: _Named) -> TextIO:
    """The same stream over `file`; one that a caller has put in its place stays."""
    if stream is not None and not (isinstance(stream, io.TextIOWrapper) and _number(stream) == file.fileno()):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="replace",  # a terminal without Unicode gets "?", not an error
        line_buffering=True,
    )


def _number(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except OSError:
        return None


def _open(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        nothing = os.open(os.devnull, os.O_RDWR)
        if nothing != number:
            os.dup2(nothing, number)
            os.close(nothing)
