"""A connection to one repository of one registry, and the one place that knows what goes wrong on it.

The protocol: https://github.com/opencontainers/distribution-spec/blob/main/spec.md.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

import httpx2

import edgephi
from edgephi.commands import shell_command
from edgephi.errors import BadInputError, TransportError, UsageError
from edgephi.flash.oci.challenge import ChallengeAnswer
from edgephi.flash.oci.credentials import PASSWORD_VARIABLE, USER_VARIABLE, find_credentials
from edgephi.flash.oci.origin import OriginGuard
from edgephi.flash.oci.reference import Reference
from edgephi.flash.oci.retry_after import retry_after_seconds
from edgephi.guards.visible import visible
from edgephi.guards.wire_watch import MOST_CUTS, WireWatch

HINT_AGAIN = "run the same command again: it goes on where it was"

# Three attempts at it, in the patience that there is.
_CONNECT_SECONDS = 7.0
# The watch ends what is slow, and counts it; this is for what it could not see.
_SILENCE_SECONDS = 60.0
_MOST_REDIRECTS = 5
_ATTEMPTS_WITHOUT_PROGRESS = 6
_FIRST_PAUSE_SECONDS = 0.1
_SLOWNESS_COUNTS = 3
_LONGEST_REASON = 200
_MAY_PASS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)

Found = TypeVar("Found")


class UnavailableError(Exception):
    """The registry answered, but not what it must: a server in trouble, or one that asks us to wait.

    Raised and caught between a request and its retries; `RegistryConnection.errors` translates the last one.
    """

    def __init__(self, response: httpx2.Response) -> None:
        self.wait_seconds = retry_after_seconds(response.headers.get("Retry-After", ""))
        wait = f"; it asks to wait {self.wait_seconds:.0f} s" if self.wait_seconds else ""
        super().__init__(_said(response) + wait)
        self.may_pass = response.status_code in _MAY_PASS or not response.is_client_error


RETRIED = (httpx2.TransportError, UnavailableError)
"""What may be over in a moment: a cut, a restart, too many requests."""


@dataclass(frozen=True)
class RegistryConnection:
    """Where requests about `reference` go: `base` is the address of its repository, with a final slash."""

    reference: Reference
    base: httpx2.URL
    client: httpx2.Client
    watch: WireWatch

    def retried(self, attempt: Callable[[], Found]) -> Found:
        """What `attempt` returns, once it does: what may be over in a moment is tried again a few times.

        Raises as `errors` does, and what the attempt raises.
        """
        failures = 0
        with self.errors(), self.watch.operation():
            while True:
                try:
                    return attempt()
                except RETRIED as cause:
                    failures += self.weight
                    self.pause_or_raise(failures, cause)

    @property
    def weight(self) -> int:
        """As how many failures the last one counts: slowness is not cured by many attempts."""
        return _SLOWNESS_COUNTS if self.watch.slowness else 1

    def pause_or_raise(self, failures: int, cause: Exception, *, begins_anew: bool = False) -> None:
        """Wait before the next attempt, longer each time, or as long as the registry asks for.

        Raises `cause` when there were enough, when no time is left for another one, or when it would be
        refused again, unless it `begins_anew`.
        """
        pause = _FIRST_PAUSE_SECONDS * 2**failures
        if isinstance(cause, UnavailableError):
            pause = max(pause, cause.wait_seconds)
            if not (cause.may_pass or begins_anew):
                raise cause
        is_enough = failures >= _ATTEMPTS_WITHOUT_PROGRESS or self.watch.cuts >= MOST_CUTS
        if is_enough or pause > self.watch.seconds_left:
            raise cause
        time.sleep(pause)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Translate all that httpx2 raises into a TransportError."""
        try:
            yield
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, UnavailableError) as cause:
            reason = self.watch.slowness or str(cause).strip().partition("\n")[0] or type(cause).__name__
            raise TransportError(
                f"{self.reference}: expected the registry, found {reason}", hint=_hint(cause, self.base)
            ) from cause

    def check(self, response: httpx2.Response) -> None:
        """Let an answer pass that says yes.

        Raises BadInputError when the registry does not let us in or has nothing of that name, and
        UnavailableError for every other refusal.
        """
        if response.is_success:
            return
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
def connect(reference: Reference, *, insecure: bool = False) -> Iterator[RegistryConnection]:
    """Speak to the registry of `reference`: over https, but plainly to this machine, or with `insecure`.

    No byte is sent yet. Raises BadInputError when the credentials for it cannot be read, UsageError when the
    registry's name is none of a machine.
    """
    plain = insecure or reference.is_loopback
    try:
        base = httpx2.URL(f"{'http' if plain else 'https'}://{reference.endpoint}/v2/{reference.name}/")
    except httpx2.InvalidURL as cause:
        raise UsageError(
            f"{reference}: expected the name or address of a registry, found {reference.registry!r}",
            hint="write REGISTRY/NAME:TAG, such as ghcr.io/acme/phi-3.5-mini-cpu:7",
        ) from cause
    client = httpx2.Client(
        auth=ChallengeAnswer(base, find_credentials(reference, os.environ), insecure=insecure),
        event_hooks={"request": [OriginGuard(base, insecure=insecure)], "response": []},
        # A compressed answer has no ranges.
        headers={"User-Agent": f"edgephi/{edgephi.__version__}", "Accept-Encoding": "identity"},
        timeout=httpx2.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS),
        follow_redirects=True,
        max_redirects=_MOST_REDIRECTS,
        # No proxy reaches what runs on this machine.
        mounts={f"all://{_in_url(base.host)}": None} if reference.is_loopback else None,
    )
    with client, contextlib.closing(WireWatch(client)) as watch:
        yield RegistryConnection(reference, base, client, watch)


def _in_url(host: str) -> str:
    """A host as an address has it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _said(response: httpx2.Response) -> str:
    """The status of a refusal, and the reason that the registry gives, without what a terminal would obey."""
    reason = ""
    with contextlib.suppress(
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        httpx2.HTTPError,
        httpx2.StreamError,
    ):
        first = json.loads(response.read())["errors"][0]
        reason = ": " + str(first.get("message") or first.get("code"))
    return visible(f"HTTP status {response.status_code}{reason}"[:_LONGEST_REASON])


def _hint(cause: Exception, base: httpx2.URL) -> str:
    reason = str(cause).lower()
    if base.scheme == "https" and ("wrong_version_number" in reason or "wrong version number" in reason):
        return "it does not speak https: add --insecure if you trust every machine on the way"
    if "certificate" in reason:
        return "point SSL_CERT_FILE to the certificate of the authority that signed the registry's"
    return HINT_AGAIN
