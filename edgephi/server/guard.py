"""What stands between the network and the routes: who may ask, and what is noted about it.

Two layers of ASGI. `Gate` refuses requests that must not reach the routes; `AccessLog`, around it, sees how
each ended, counts and logs it, and lets no exception through: uvicorn would print a traceback.
"""

from __future__ import annotations

import hmac
import ipaddress
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgephi.server.ollama.response import OLLAMA
from edgephi.server.refusal import CLIENT_GONE, Refusal
from edgephi.server.replies import refusal_response

_LOCKED = ("/v1/", OLLAMA, "/metrics")  # need the key; the page and /health do not


@dataclass(frozen=True)
class GateOptions:
    """Who may ask.

    `api_key` None: nobody needs one. `on_loopback`: only this machine can reach the port, so a request whose
    Host or Origin is another one comes from a web page that a browser here shows. `origins` and `hosts` are
    let through all the same.
    """

    api_key: bytes | None
    on_loopback: bool
    origins: Collection[str] = ()
    hosts: Collection[str] = ()


class Gate:
    """Refuses what must not reach the routes."""

    def __init__(self, app: ASGIApp, options: GateOptions) -> None:
        self._app = app
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or say why not."""
        refusal = self._refusal(scope["path"], scope["method"], Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await refusal_response(refusal, scope["path"])(scope, receive, send)

    def _refusal(self, path: str, method: str, headers: Headers) -> Refusal | None:
        options = self._options
        if options.on_loopback:
            host, origin = headers.get("host", ""), headers.get("origin")
            if not self._is_ours(f"//{host}"):
                return Refusal(403, f"expected a Host of this machine, found {host!r} (see --allow-host)")
            if origin is not None and origin not in options.origins and not self._is_ours(origin):
                return Refusal(403, f"expected a page of this machine, found {origin!r} (see --allow-origin)")
        if options.api_key is not None and path.startswith(_LOCKED) and method != "OPTIONS":
            scheme, _, key = headers.get("authorization", "").partition(" ")
            # Bytes: texts that are not ASCII cannot be compared in constant time.
            given = key.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else b""
            if not hmac.compare_digest(given, options.api_key):
                found = "another" if given else "none"
                return Refusal(
                    401,
                    f"expected this server's API key as bearer token, found {found}",
                    code="invalid_api_key",
                )
        return None

    def _is_ours(self, url: str) -> bool:
        try:
            name = (urlsplit(url).hostname or "").lower()
        except ValueError:
            return False
        return is_loopback_name(name) or name in self._options.hosts


def is_loopback_name(name: str) -> bool:
    """Whether a host's name or address always means the machine itself."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


class AccessLog:
    """Sees every request from its first byte to the last of its response."""

    def __init__(
        self,
        app: ASGIApp,
        note: Callable[[Scope, int, float], None],
        log_bug: Callable[[BaseException], None],
    ) -> None:
        self._app = app
        self._note = note
        self._log_bug = log_bug

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, and note how it ended."""
        status = CLIENT_GONE  # until something is sent
        start = time.monotonic()
        state = scope["state"]
        state["request_id"] = uuid.uuid4().hex

        async def seen_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", state["request_id"].encode())]
            await send(message)

        try:
            try:
                await self._app(scope, receive, seen_send)
            except Exception as bug:
                self._log_bug(bug)
                if status == CLIENT_GONE:
                    refusal = Refusal(500, "bug in edgephi, see its log", code="internal_error")
                    await refusal_response(refusal, scope["path"])(scope, receive, seen_send)
                else:
                    state["connection"].abort()
        finally:
            self._note(scope, state.get("ended_as", status), time.monotonic() - start)
