"""A connection to one repository of one registry, and the one place that knows what goes wrong on it.

The protocol: https://github.com/opencontainers/distribution-spec/blob/main/spec.md.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

import httpx

import edgephi
from edgephi.commands import shell_command
from edgephi.errors import BadInputError, TransportError, UsageError
from edgephi.flash.oci.challenge import ChallengeAnswer
from edgephi.flash.oci.credentials import PASSWORD_VARIABLE, USER_VARIABLE, find_credentials
from edgephi.flash.oci.reference import Reference

HINT_AGAIN = "run the same command again: it goes on where it was"

_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 60.0
_ATTEMPTS_WITHOUT_PROGRESS = 6
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_REASON = 200


class UnavailableError(Exception):
    """The registry answered, but not what it must: a server in trouble, or one that asks us to wait.

    Raised and caught between a request and its retries; `Connection.errors` translates it when they end.
    """

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(_said(response))
        self.status = response.status_code


RETRIED = (httpx.TransportError, UnavailableError)
"""What may be over in a moment: a cut, a restart, too many requests."""


@dataclass(frozen=True)
class Connection:
    """Where requests about `reference` go: `base` is the address of its repository, with a final slash."""

    reference: Reference
    base: httpx.URL
    client: httpx.Client

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Translate all that httpx raises into a TransportError."""
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, UnavailableError) as cause:
            reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
            raise TransportError(
                f"{self.reference}: expected the registry, found {reason}", hint=_hint(cause, self.base)
            ) from cause

    def check(self, response: httpx.Response) -> None:
        """Let an answer pass that says yes.

        Raises BadInputError when the registry does not let us in or has nothing of that name, and
        UnavailableError for every other refusal.
        """
        if response.is_success:
            return
        with contextlib.suppress(httpx.HTTPError):
            response.read()
        found = _said(response)
        if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise BadInputError(
                f"{self.reference}: expected access, found {found}",
                hint=f"`{shell_command('docker', 'login', self.reference.registry)}`, "
                f"or set {USER_VARIABLE} and {PASSWORD_VARIABLE}",
            )
        if response.status_code == HTTPStatus.NOT_FOUND:
            raise BadInputError(
                f"{self.reference}: expected it in the registry, found {found}",
                hint="check name and tag; a private repository also needs "
                f"`{shell_command('docker', 'login')}`",
            )
        raise UnavailableError(response)

    def damaged(self, what: str, expected: str, found: str) -> TransportError:
        """The error for bytes that are not what their digest says."""
        return TransportError(
            f"{self.reference}: {what}: expected {expected}, found {found}",
            hint="it was damaged on its way or in the registry: try again, else push it again",
        )


@contextlib.contextmanager
def connect(reference: Reference, *, insecure: bool = False) -> Iterator[Connection]:
    """Speak to the registry of `reference`: over https, but plainly to this machine, or with `insecure`.

    No byte is sent yet. Raises BadInputError when the credentials for it cannot be read, UsageError when the
    registry's name is none of a machine.
    """
    plain = insecure or reference.is_loopback
    try:
        base = httpx.URL(f"{'http' if plain else 'https'}://{reference.endpoint}/v2/{reference.name}/")
    except httpx.InvalidURL as cause:
        raise UsageError(
            f"{reference}: expected the name or address of a registry, found {reference.registry!r}",
            hint="write REGISTRY/NAME:TAG, such as ghcr.io/acme/phi-3.5-mini-cpu:7",
        ) from cause
    with httpx.Client(
        auth=ChallengeAnswer(find_credentials(reference, os.environ), insecure=insecure),
        # A compressed answer has no ranges.
        headers={"User-Agent": f"edgephi/{edgephi.__version__}", "Accept-Encoding": "identity"},
        timeout=httpx.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS),
        follow_redirects=True,
        # No proxy reaches what runs on this machine.
        mounts={f"all://{_in_url(base.host)}": None} if reference.is_loopback else None,
    ) as client:
        yield Connection(reference, base, client)


def pause_or_raise(failures: int) -> None:
    """Wait before the next attempt, longer each time; raise what is being handled when there were enough."""
    if failures >= _ATTEMPTS_WITHOUT_PROGRESS:
        raise  # noqa: PLE0704 - called while an exception is handled
    time.sleep(_FIRST_PAUSE_SECONDS * 2**failures)


def _in_url(host: str) -> str:
    """A host as an address has it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _said(response: httpx.Response) -> str:
    """The status of a refusal, and the reason that the registry gives, without what a terminal would obey."""
    reason = ""
    with contextlib.suppress(ValueError, LookupError, TypeError, httpx.StreamError):
        first = json.loads(response.content)["errors"][0]
        reason = ": " + str(first.get("message") or first.get("code"))
    shown = f"HTTP status {response.status_code}{reason}"[:_LONGEST_REASON]
    return "".join(letter for letter in shown if letter.isprintable())


def _hint(cause: Exception, base: httpx.URL) -> str:
    reason = str(cause).lower()
    if base.scheme == "https" and ("wrong_version_number" in reason or "wrong version number" in reason):
        return "it does not speak https: add --insecure if you trust every machine on the way"
    if "certificate" in reason:
        return "point SSL_CERT_FILE to the certificate of the authority that signed the registry's"
    return HINT_AGAIN
