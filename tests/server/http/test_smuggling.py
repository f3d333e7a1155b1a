"""Requests that two readers, such as a proxy and the server, could take for different ones."""

from __future__ import annotations

import json

import pytest

from tests.server.serving import Server
from tests.server.test_refusals import raw

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
SECOND = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"

REFUSED: dict[str, tuple[int, bytes]] = {
    "a length beside a coding": (
        400,
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "a coding beside a length": (
        400,
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    "of a reading request too": (
        400,
        GET + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "two lengths": (400, POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    "one length twice": (400, POST + b"Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello"),
    "a list of lengths": (400, POST + b"Content-Length: 5, 5\r\n\r\nhello"),
    "a signed length": (400, POST + b"Content-Length: +5\r\n\r\nhello"),
    "a negative length": (400, POST + b"Content-Length: -5\r\n\r\nhello"),
    "a length with an underscore": (400, POST + b"Content-Length: 0_5\r\n\r\nhello"),
    "an empty length": (400, POST + b"Content-Length:\r\n\r\nhello"),
    "another coding": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "a coding that is misspelt": (501, POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "no coding": (501, POST + b"Transfer-Encoding: identity\r\n\r\n"),
    "two codings": (501, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "a coding in HTTP/1.0": (
        400,
        POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "a space before the colon": (400, POST + b"Content-Length : 5\r\n\r\nhello"),
    "a header that goes on": (400, POST + b"X: a\r\n b\r\n\r\n"),
    "a coding that goes on": (400, POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    "a first header that goes on": (400, b"GET /health HTTP/1.1\r\n Host: localhost\r\n\r\n"),
    "a header without a name": (400, GET + b": a\r\n\r\n"),
    "a line without a colon": (400, GET + b"nonsense\r\n\r\n"),
    "a carriage return alone": (400, GET + b"X: a\rContent-Length: 5\r\n\r\nhello"),
    "two carriage returns": (400, GET + b"X: a\r\r\n\r\n"),
    "a line feed alone": (400, GET + b"X: a\nContent-Length: 5\r\n\r\nhello"),
    "line feeds only": (400, GET.replace(b"\r\n", b"\n") + b"\n"),
    "a zero": (400, GET + b"X: a\0b\r\n\r\n"),
    "a control character": (400, GET + b"X: a\x01b\r\n\r\n"),
    "a zero in a name": (400, GET + b"X\0: a\r\n\r\n"),
    "two hosts": (400, GET + b"Host: evil.example\r\n\r\n"),
    "no host": (400, b"GET /health HTTP/1.1\r\n\r\n"),
    "a later version": (505, b"GET /health HTTP/2.0\r\nHost: localhost\r\n\r\n"),
    "no version": (400, b"GET /health\r\n\r\n"),
    "spaces in the target": (400, b"GET /health  HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "a chunk without a size": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n"),
    "a chunk of no number": (400, POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n"),
    "a chunk of a hexadecimal prefix": (
        400,
        POST + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    ),
    "a chunk of a negative size": (
        400,
        POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    ),
    "a chunk of a huge size": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\nhello"),
    "a chunk with more than it says": (
        400,
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
    ),
    "a chunk's line that ends with a line feed": (
        400,
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_and_the_connection_closed(server: Server, name: str) -> None:
    status, request = REFUSED[name]
    answer = raw(server, request + SECOND)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nconnection: close" in head.lower()
    assert json.loads(body)["error"]["message"].startswith("expected ")  # and nothing behind it


@pytest.mark.parametrize(
    "request_",
    [GET + b"X: a\tb \xe4 ~\r\n", GET + b"X:\r\n", GET + b"A.b-c_d!#$%&'*+^`|~0: a:b\r\n"],
    ids=repr,
)
def test_odd_headers_that_mean_one_thing_are_taken(server: Server, request_: bytes) -> None:
    answer = raw(server, request_ + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_body_in_chunks_is_taken(server: Server) -> None:
    body = b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}'
    chunks = b"".join(b"%x;a=b\r\n%c\r\n" % (1, letter) for letter in body) + b"0\r\nTrailer: a\r\n\r\n"
    answer = raw(server, POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert answer.startswith(b"HTTP/1.1 200 ")
