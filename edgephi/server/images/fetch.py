"""Fetches an image by http or https: one that is not too large, from an address that may be asked."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import SplitResult, urljoin, urlsplit

import h11

import edgephi
from edgephi.server.images.address import address_of
from edgephi.server.images.room import Place
from edgephi.server.refusal import Refusal

SECONDS = 15.0
"""For all images of a request together."""

_MOST_AT_ONCE = 8  # of all requests together
_MOST_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_READ_BYTES = 64 << 10
_PORTS = {"http": 80, "https": 443}
_LONGEST_URL = 4000
_SHOWN = 100
_PLAIN = re.compile(r"[!-~]+")  # what stands in the head of a request


@dataclass(frozen=True)
class _Redirect:
    """Where else an image is said to be."""

    url: str


class Fetcher:
    """Fetches images; `private`: also from addresses that are not of the public internet."""

    def __init__(self, *, private: bool) -> None:
        self._private = private
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)
        self._tls = ssl.create_default_context()

    async def fetch(self, url: str, place: Place, param: str) -> bytes:
        """The bytes at a URL, which `place` holds from then on. Raises Refusal, which names `param`."""
        async with self._turns:
            for _ in range(_MOST_REDIRECTS + 1):
                found = await self._ask(url, place, param)
                if isinstance(found, bytes):
                    return found
                url = urljoin(url, found.url)
        raise _failed(f"it is said to be elsewhere more than {_MOST_REDIRECTS} times", param)

    async def _ask(self, url: str, place: Place, param: str) -> bytes | _Redirect:
        parts, port = _parts(url, param)
        host = parts.hostname or ""
        address = await address_of(host, port, private=self._private, place=param)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = [
            ("Host", parts.netloc),
            ("User-Agent", f"edgephi/{edgephi.__version__}"),
            ("Accept", "image/*"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        try:
            request = h11.Request(method="GET", target=path, headers=headers)
            async with self._connected(address, port, host, tls=parts.scheme == "https") as events:
                connection = h11.Connection(h11.CLIENT)
                await events.write(connection.send(request) + connection.send(h11.EndOfMessage()))
                return await _received(connection, events, place, param)
        except (h11.ProtocolError, UnicodeError):
            raise _failed("what answers there speaks no HTTP", param) from None
        except ssl.SSLError as cause:
            raise _failed(f"no TLS with its host: {cause.reason or 'it failed'}", param) from None
        except OSError as cause:
            raise _failed(f"its host: {cause.strerror or 'the connection broke off'}", param) from None

    @contextlib.asynccontextmanager
    async def _connected(self, address: str, port: int, host: str, *, tls: bool) -> AsyncIterator[_Stream]:
        """A connection to an address, under the name of its host."""
        named = {"ssl": self._tls, "server_hostname": host} if tls else {}
        reader, writer = await asyncio.open_connection(address, port, **named)  # type: ignore[arg-type]
        try:
            yield _Stream(reader, writer)
        finally:
            writer.close()


@dataclass(frozen=True)
class _Stream:
    """Both directions of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read(self) -> bytes:
        return await self.reader.read(_READ_BYTES)


async def _received(
    connection: h11.Connection, stream: _Stream, place: Place, param: str
) -> bytes | _Redirect:
    """The body of the response, or where it says that the image is."""
    data = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.read())
        elif isinstance(event, h11.Response):
            redirect = _looked_at(event, place, param)
            if redirect is not None:
                return redirect
        elif isinstance(event, h11.Data):
            if len(event.data) > place.left:
                raise _too_large(place, param)
            place.take(len(event.data))
            data += event.data
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return bytes(data)


def _looked_at(response: h11.Response, place: Place, param: str) -> _Redirect | None:
    """Where the image is said to be, if elsewhere. Raises Refusal for a response that has no image."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
    if response.status_code in _REDIRECTS and "location" in headers:
        return _Redirect(headers["location"])
    if response.status_code != HTTPStatus.OK:
        raise _failed(f"its host answers {response.status_code}", param)
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise _failed("it is encoded, though that was not asked for", param)
    if int(headers.get("content-length", "0")) > place.left:
        raise _too_large(place, param)
    return None


def _parts(url: str, param: str) -> tuple[SplitResult, int]:
    """A URL in parts, and its port."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        raise _failed(f"expected an address of http or https, found {url[:_SHOWN]!r}", param) from None
    if (
        not parts.hostname
        or parts.username is not None
        or len(url) > _LONGEST_URL
        or not _PLAIN.fullmatch(url)
    ):
        raise _failed(f"expected http(s)://host/path, found {url[:_SHOWN]!r}", param)
    return parts, port


def _too_large(place: Place, param: str) -> Refusal:
    return Refusal(
        413,
        f"expected images of at most {place.most} bytes in a request, found more",
        param=param,
        code="body_too_large",
    )


def _failed(why: str, param: str) -> Refusal:
    return Refusal(400, f"cannot fetch the image: {why}", param=param, code="image_not_fetched")
