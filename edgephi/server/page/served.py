"""The chat page at `/`: its files, which are in the folder `files`, and the headers that keep it to itself.

The page loads nothing from elsewhere and may not: its policy lets it reach this server only, run no script
that is not a file of ours, and put no text where a browser would read it as markup.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

FOLDER = Path(__file__).parent / "files"
_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Asked for each time and answered with 304: files of two versions never meet in one page.
    "Cache-Control": "no-cache",
}


def routes() -> list[Route]:
    """`/` for the page and `/page/NAME` for what it loads. Files are read once, here; none needs a key."""
    from starlette.routing import Route

    found = sorted(path for path in FOLDER.iterdir() if path.suffix in _CONTENT_TYPES)
    return [
        Route("/" if path.name == "index.html" else f"/page/{path.name}", _endpoint(path), methods=["GET"])
        for path in found
    ]


def _endpoint(path: Path) -> Callable[[Request], Awaitable[Response]]:
    """What answers requests for one file."""
    from starlette.responses import Response

    content = path.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**_HEADERS, "ETag": tag}
    content_type = _CONTENT_TYPES[path.suffix]

    async def answer(request: Request) -> Response:
        if _matches(request.headers.get("if-none-match", ""), tag):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=content_type)

    return answer


def _matches(condition: str, tag: str) -> bool:
    """Whether `If-None-Match: condition` names `tag`. Proxies that compress make weak ones, W/"…"."""
    tags = [each.strip().removeprefix("W/") for each in condition.split(",")]
    return tag in tags or tags == ["*"]
