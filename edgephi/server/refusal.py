"""What a client is told when it does not get an answer: a status, and an error object of OpenAI's API."""

from __future__ import annotations

import math

import msgspec

from edgephi.errors import BadInputError, DoesNotFitError, NotSupportedError, PastContextError, UsageError
from edgephi.processes.reported import error_of
from edgephi.server.engine.messages import Failed

CLIENT_GONE = 499
"""The status in logs and metrics of a request whose client did not wait; it is never sent."""

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_BAD_REQUEST = (UsageError, BadInputError, NotSupportedError)


class ErrorDetails(msgspec.Struct, frozen=True):
    """`param` is the member of the request that is wrong, `code` a word that programs can tell errors by."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorObject(msgspec.Struct, frozen=True):
    """The body of every response that is not a success, and the last event of a stream that breaks off."""

    error: ErrorDetails


class Refusal(Exception):  # noqa: N818 - it is said to a client, not to who runs the server
    """No answer. `retry_after`: seconds after which it may be worth asking again."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.status = status
        self.error = ErrorObject(ErrorDetails(message, kind, param, code))
        self.headers = {} if retry_after is None else {"retry-after": str(max(1, math.ceil(retry_after)))}


def refusal_of(failed: Failed) -> Refusal:
    """What a client is told about what went wrong in the engine's process."""
    error = error_of(failed.error)
    kind, message = type(error), f"{error.message} ({error.hint})"
    if kind is PastContextError:
        return Refusal(400, message, param="messages", code="context_length_exceeded")
    if kind in _BAD_REQUEST:
        return Refusal(400, message)
    if kind is DoesNotFitError:
        return Refusal(503, message, code="insufficient_memory", retry_after=10)
    return Refusal(500, message, code="engine_error")
