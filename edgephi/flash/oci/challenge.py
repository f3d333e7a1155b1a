"""Answer a registry that asks who we are: with a password, or with a token that its token server gives.

A registry answers 401 and says in `WWW-Authenticate` how it wants to be answered (RFC 9110, 11.6.1):
`Basic` with user and password, or `Bearer` with a token from another server, by
https://distribution.github.io/distribution/spec/auth/token. Without credentials a token is asked for all the
same: that is how registries let anybody read what is public.
"""

import re
import time
from collections.abc import AsyncGenerator, Generator

import httpx

from edgephi.errors import BadInputError
from edgephi.flash.oci.credentials import Credentials
from edgephi.flash.oci.reference import is_loopback

_CHALLENGE = re.compile(r"\s*(?P<scheme>[A-Za-z]+)\s+(?P<parameters>.*)", re.DOTALL)
_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')
# What a token server that does not say promises, and how long before its end a token is not used any more.
_TOKEN_SECONDS = 60
_TOKEN_MARGIN_SECONDS = 10


class ChallengeAnswer(httpx.Auth):
    """Answers for one registry. Its tokens are used again until they end.

    `insecure` allows passwords over plain HTTP to other machines. The header goes to the registry only: httpx
    leaves it out when the registry redirects to another host, where large blobs often lie.
    """

    def __init__(self, credentials: Credentials | None, *, insecure: bool) -> None:
        self._credentials = credentials
        self._insecure = insecure
        self._header = ""
        self._ends = 0.0

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        """Send a request, and once more with an answer when the registry asks for one."""
        if self._header and time.monotonic() < self._ends:
            request.headers["Authorization"] = self._header
        response = yield request
        if response.status_code != httpx.codes.UNAUTHORIZED:
            return
        self._header = ""
        scheme, parameters = _read_challenge(response.headers.get("WWW-Authenticate", ""))
        credentials = self._credentials
        if scheme == "basic" and credentials is not None and credentials.user:
            self._check_wire(request.url)
            basic = next(httpx.BasicAuth(credentials.user, credentials.password).auth_flow(request))
            self._header, self._ends = basic.headers["Authorization"], float("inf")
        elif scheme == "bearer" and "realm" in parameters:
            answer = yield self._token_request(parameters)
            answer.read()
            self._take_token(answer)
        if self._header:
            request.headers["Authorization"] = self._header
            yield request

    def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Not used: one transfer at a time needs no event loop."""
        raise NotImplementedError

    def _token_request(self, parameters: dict[str, str]) -> httpx.Request:
        """Ask the token server that the registry has named for what the registry said is needed."""
        try:
            url = httpx.URL(parameters["realm"])
        except httpx.InvalidURL:
            url = httpx.URL("")
        if url.scheme not in ("http", "https"):
            raise BadInputError(
                f"the registry names {parameters['realm']!r} as its token server, expected an address",
                hint="tell those who run the registry",
            )
        asked = {name: parameters[name] for name in ("service", "scope") if parameters.get(name)}
        credentials = self._credentials
        if credentials is None:
            return httpx.Request("GET", url.copy_merge_params(asked))
        self._check_wire(url)
        if credentials.identity_token:
            form = {
                **asked,
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "client_id": "edgephi",
            }
            return httpx.Request("POST", url, data=form)
        request = httpx.Request("GET", url.copy_merge_params({**asked, "client_id": "edgephi"}))
        return next(httpx.BasicAuth(credentials.user, credentials.password).auth_flow(request))

    def _take_token(self, answer: httpx.Response) -> None:
        """Keep the token of a token server; without one, the registry's 401 stands."""
        try:
            found = answer.json() if answer.is_success else {}
            token = found.get("token") or found.get("access_token")
            seconds = float(found.get("expires_in") or _TOKEN_SECONDS)
        except (ValueError, TypeError, AttributeError):
            return
        if isinstance(token, str) and token.isprintable() and token.isascii():
            self._header = f"Bearer {token}"
            self._ends = time.monotonic() + seconds - _TOKEN_MARGIN_SECONDS

    def _check_wire(self, url: httpx.URL) -> None:
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
