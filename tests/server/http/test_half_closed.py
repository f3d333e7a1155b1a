"""Clients that send no more: those that still read are answered, for those that are gone nothing works."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.serving import PATIENCE, Server, serving, slowly, until


def request(version: str = "1.1", **members: object) -> bytes:
    body = json.dumps({"messages": [{"role": "user", "content": "turn on the kitchen light"}], **members})
    head = (
        f"POST /v1/chat/completions HTTP/{version}\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    )
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def half_closed(server: Server, data: bytes) -> bytes:
    """What comes until the server closes, when its client has closed its half at once."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


@pytest.fixture(scope="module")
def slow(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes seconds for an answer."""
    with serving(demo_bundle, tmp_path_factory.mktemp("server"), "--context", 512, **slowly(0.3)) as running:
        yield running


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_one_that_still_reads_gets_its_answer(server: Server, version: str) -> None:
    answer = half_closed(server, request(version))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["choices"]


def test_and_a_streamed_one(server: Server) -> None:
    answer = half_closed(server, request(stream=True))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"data: [DONE]\n\n" in answer


def test_and_several_that_it_has_asked_for(server: Server) -> None:
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = half_closed(server, health + request(max_tokens=2) + health)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 3


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_and_one_that_takes_its_time(slow: Server, stream: bool) -> None:
    answer = half_closed(slow, request(stream=stream, max_tokens=2))
    while answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
        answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"finish_reason":"length"' in answer


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_nothing_works_for_one_that_is_gone(slow: Server, stream: bool) -> None:
    """Its connection ends in the same way as that of one that still reads."""
    with socket.create_connection(("127.0.0.1", slow.port)) as client:
        client.sendall(request(stream=stream))
        until(lambda: slow.metric("edgephi_engine_busy") == 1, "the start")
        ended = slow.log.count("POST /v1/chat/completions 499 ")
    start = time.monotonic()
    until(lambda: slow.metric("edgephi_engine_busy") == 0, "the end of the work")
    assert time.monotonic() - start < 2.0  # of the 3 s that the whole answer takes
    until(lambda: slow.log.count("POST /v1/chat/completions 499 ") > ended, "its line in the log")


@pytest.mark.parametrize(
    "data", [b"GET /hea", b"GET /health HTTP/1.1\r\nHost: localhost\r\n", request()[:-5]], ids=repr
)
def test_one_whose_request_is_not_whole_is_told_so(server: Server, data: bytes) -> None:
    answer = half_closed(server, data)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"found the end of the connection" in answer


def test_one_that_asks_nothing_is_closed(server: Server) -> None:
    assert half_closed(server, b"") == b""
