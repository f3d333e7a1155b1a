"""Answer a registry that asks who we are: with a password, or with a token that its token server gives.

A registry answers 401 and says in `WWW-Authenticate` how it wants to be answered (RFC 9110, 11.6.1):
`Basic` with user and password, or `Bearer` with a token from another server, by
https://distribution.github.io/distribution/spec/auth/token. Without credentials a token is asked for all the
same: that is how registries let anybody read what is public.

Only the registry itself is answered. A server that it redirects to may ask for a password too, and gets none.
A token server may be another machine, as with Docker's own registry; it is spoken to by https, or plainly
where the registry is, too, and on the same machine.
"""

import re
import time
from collections.abc import AsyncGenerator, Generator

import httpx2

from edgephi.errors import BadInputError
from edgephi.flash.oci.credentials import Credentials
from edgephi.flash.oci.origin import HINT_OPERATOR, is_same_host, origin_of, to_token_server
from edgephi.flash.oci.reference import is_loopback
from edgephi.guards.wire_watch import allowing

_CHALLENGE = re.compile(r"\s*(?P<scheme>[A-Za-z]+)\s+(?P<parameters>.*)", re.DOTALL)
_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')
# What a token server that does not say promises, and how long before its end a token is not used any more.
_TOKEN_SECONDS = 60
_TOKEN_MARGIN_SECONDS = 10
_LONGEST_TOKEN_SECONDS = 3600.0
_LARGEST_ANSWER_BYTES = 1 << 20
_LONGEST_TOKEN = 64 << 10


class ChallengeAnswer(httpx2.Auth):
    """Answers the registry at `base`, and nobody else. Its tokens are used again until they end.

    `insecure` allows passwords over plain HTTP to the registry on another machine.
    """

    def __init__(self, base: httpx2.URL, credentials: Credentials | None, *, insecure: bool) -> None:
        self._base = base
        self._credentials = credentials
        self._insecure = insecure
        self._header = ""
        self._ends = 0.0

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response]:
        """Send a request, and once more with an answer when the registry asks for one."""
        if self._header and time.monotonic() < self._ends and self._is_registry(request):
            request.headers["Authorization"] = self._header
        response = yield request
        if response.status_code != httpx2.codes.UNAUTHORIZED:
            return
        if not (self._is_registry(request) and self._is_registry(response.request)):
            return  # it was redirected, and somebody else asks
        self._header = ""
        scheme, parameters = _read_challenge(response.headers.get("WWW-Authenticate", ""))
        if scheme == "basic":
            if self._credentials is None or not self._credentials.user:
                return
            self._check_wire(request.url)
            basic = httpx2.BasicAuth(self._credentials.user, self._credentials.password)
            self._header = next(basic.auth_flow(request)).headers["Authorization"]
            self._ends = float("inf")
        elif scheme == "bearer" and "realm" in parameters:
            answer = yield self._token_request(parameters)
            answer.read()
            self._take_token(answer)
        else:
            return
        request.headers.pop("Authorization", None)
        if self._header:
            request.headers["Authorization"] = self._header
        yield request  # also without a token: the last answer must be the registry's

    def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Not used: one transfer at a time needs no event loop."""
        raise NotImplementedError

    def _is_registry(self, request: httpx2.Request) -> bool:
        return origin_of(request.url) == origin_of(self._base)

    def _token_server(self, realm: str) -> httpx2.URL:
        """The address of the token server that the registry names. Raises BadInputError unless it is safe."""
        try:
            url = httpx2.URL(realm)
        except httpx2.InvalidURL:
            url = httpx2.URL("")
        plain = url.scheme == "http" == self._base.scheme and is_same_host(url.host, self._base.host)
        if not url.host or not (url.scheme == "https" or plain):
            raise BadInputError(
                f"{self._base.host}: expected an https address of its token server, found {realm[:200]!r}",
                hint=HINT_OPERATOR,
            )
        return url

    def _token_request(self, parameters: dict[str, str]) -> httpx2.Request:
        """Ask the token server that the registry has named for what the registry said is needed."""
        url = self._token_server(parameters["realm"])
        extensions = {**to_token_server(url), **allowing(size=_LARGEST_ANSWER_BYTES)}
        asked = {name: parameters[name] for name in ("service", "scope") if parameters.get(name)}
        credentials = self._credentials
        if credentials is None:
            return httpx2.Request("GET", url.copy_merge_params(asked), extensions=extensions)
        self._check_wire(url)
        if credentials.identity_token:
            form = {
                **asked,
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "client_id": "edgephi",
            }
            return httpx2.Request("POST", url, data=form, extensions=extensions)
        url = url.copy_merge_params({**asked, "client_id": "edgephi"})
        request = httpx2.Request("GET", url, extensions=extensions)
        return next(httpx2.BasicAuth(credentials.user, credentials.password).auth_flow(request))

    def _take_token(self, answer: httpx2.Response) -> None:
        """Keep the token of a token server; without one, the registry's 401 stands."""
        try:
            found = answer.json() if answer.is_success else {}
            token = found.get("token") or found.get("access_token")
            seconds = float(found.get("expires_in") or _TOKEN_SECONDS)
        except (ValueError, TypeError, AttributeError):
            return
        if isinstance(token, str) and token.isprintable() and token.isascii() and len(token) < _LONGEST_TOKEN:
            self._header = f"Bearer {token}"
            self._ends = time.monotonic() + min(seconds, _LONGEST_TOKEN_SECONDS) - _TOKEN_MARGIN_SECONDS

    def _check_wire(self, url: httpx2.URL) -> None:
        """Never let a password out where others can read it."""
        if url.scheme != "https" and not self._insecure and not is_loopback(url.host):
            raise BadInputError(
                f"{url.host}: expected https before a password is sent, found {url.scheme}",
                hint="use a registry with https; --insecure sends passwords that others can read",
            )


def _read_challenge(header: str) -> tuple[str, dict[str, str]]:
    """Scheme, in small letters, and parameters of a `WWW-Authenticate`."""
    match = _CHALLENGE.fullmatch(header)
    if match is None:
        return header.strip().lower(), {}
    parameters = {
        name.lower(): re.sub(r"\\(.)", r"\1", quoted) if quoted else bare
        for name, quoted, bare in _PARAMETER.findall(match["parameters"])
    }
    return match["scheme"].lower(), parameters
