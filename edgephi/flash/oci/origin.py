"""Who may be sent what: the registry its credentials, every other server nothing but the plain question.

An origin is scheme, host and port. A registry redirects to where its blobs lie, and names servers for tokens
and for uploads; what it says is followed only as far as it is as safe as the registry itself.
"""

from typing import Any

import httpx2

from edgephi.errors import TransportError
from edgephi.flash.oci.reference import is_loopback

_PORTS = {"http": 80, "https": 443}
_SAME_MACHINE = ("localhost", "127.0.0.1", "::1")
_TOKEN_SERVER = "edgephi_token_server"  # noqa: S105 - the name of an extension
HINT_OPERATOR = "tell those who run the registry; it may be that somebody on the way answers for it"

Origin = tuple[str, str, int]


def origin_of(url: httpx2.URL) -> Origin:
    """Scheme, host and port of an address."""
    return url.scheme, url.host, url.port or _PORTS.get(url.scheme, 0)


def is_same_host(one: str, other: str) -> bool:
    """Whether two names of hosts are one machine for certain."""
    return one == other or (one in _SAME_MACHINE and other in _SAME_MACHINE)


def to_token_server(url: httpx2.URL) -> dict[str, Any]:
    """The extensions of a request that carries credentials to the token server at `url`, and nowhere else."""
    return {_TOKEN_SERVER: origin_of(url)}


class OriginGuard:
    """Sees every request to or by way of the registry at `base`, also those that redirects cause.

    `insecure`: the user has said that everybody on the way may listen.
    """

    def __init__(self, base: httpx2.URL, *, insecure: bool) -> None:
        self._base = base
        self._registry = origin_of(base)
        self._insecure = insecure

    def __call__(self, request: httpx2.Request) -> None:
        """Raise TransportError for a target that is not safe; take credentials off that are not for it."""
        url, origin = request.url, origin_of(request.url)
        if not self._is_safe(url):
            expected = "https" if self._base.scheme == "https" else "http to this machine, or https"
            raise TransportError(
                f"{self._base.host}: expected {expected} where it sends us, "
                f"found {url.scheme}://{url.netloc.decode(errors='replace')}",
                hint=HINT_OPERATOR,
            )
        token_server = request.extensions.get(_TOKEN_SERVER)
        if token_server is not None:
            if origin != token_server:
                raise TransportError(
                    f"{self._base.host}: expected a token from {token_server[1]}, "
                    f"found that it sends our credentials to {url.host}",
                    hint=HINT_OPERATOR,
                )
        elif origin != self._registry:
            request.headers.pop("Authorization", None)

    def _is_safe(self, url: httpx2.URL) -> bool:
        if url.scheme == "https":
            return bool(url.host)
        if url.scheme != "http" or self._base.scheme != "http":
            return False
        return self._insecure or is_loopback(url.host)
