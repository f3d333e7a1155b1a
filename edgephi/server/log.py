"""What the server writes to standard error: one line a request, and what happens to the engine."""

from __future__ import annotations

import errno
import json
import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from edgephi.server.where_raised import where_raised

# Beside those that Python has a ConnectionError for.
_OF_CONNECTIONS = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOMEM,
    errno.EINVAL,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.EPROTO,
    errno.EBADF,
}
# A second after files were short, asyncio takes connections in again, also where the server has ended.
_TOO_LATE = "BaseSelectorEventLoop._start_serving("
_SPEAK_FOR_THEMSELVES = ("client", "method", "path", "status")


class Log:
    """Lines for people, or for programs (`as_json`). Texts of prompts come in only with `prompts`."""

    def __init__(self, *, as_json: bool = False, prompts: bool = False) -> None:
        self._as_json = as_json
        self.prompts = prompts

    def event(self, kind: str, text: str) -> None:
        """Something happened: `kind` is "warning", "error" or "info"."""
        self._write({"level": kind, "message": text}, f"{kind}: {text}")

    def request(self, facts: Mapping[str, object]) -> None:
        """A request has ended. Some of its facts speak for themselves, the others get their names."""
        plain = _SPEAK_FOR_THEMSELVES
        # A space in a path must not look like the end of it, and the rest like a status.
        words = [
            str(value).replace(" ", "%20") if name in plain else f"{name}={value}"
            for name, value in facts.items()
        ]
        self._write({"level": "request", **facts}, " ".join(words))

    def bug(self, cause: BaseException) -> None:
        """An exception that should not have happened."""
        self.event("error", f"bug in edgephi: {where_raised(cause)}")

    def _write(self, facts: Mapping[str, object], line: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        text = json.dumps({"time": now, **facts}, ensure_ascii=False) if self._as_json else f"{now} {line}"
        # What a client sent may hold anything, also what would begin a line of its own.
        text = "".join(letter if letter.isprintable() else "?" for letter in text)
        print(text, file=sys.stderr, flush=True)  # noqa: T201


class LibraryHandler(logging.Handler):
    """Puts what libraries have to say into the log, one line each and never a traceback.

    What clients and the network do is no bug, and can come thousands of times a second: `broken` gets it.
    """

    def __init__(self, log: Log, broken: Callable[[OSError], None]) -> None:
        super().__init__(logging.ERROR)
        self._log = log
        self._broken = broken

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        cause = record.exc_info[1] if record.exc_info else None
        if isinstance(cause, OSError) and (
            isinstance(cause, ConnectionError) or cause.errno in _OF_CONNECTIONS
        ):
            self._broken(cause)
        elif isinstance(cause, ValueError) and _TOO_LATE in record.getMessage():
            pass
        elif cause is not None:
            self._log.bug(cause)
        else:
            self._log.event("error", f"{record.name}: {' '.join(record.getMessage().split())}")
