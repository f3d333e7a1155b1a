"""The limits of a connection, with shorter clocks than a device has and an application of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from edgephi.server.http import connection as connection_module
from edgephi.server.http import early_answers
from edgephi.server.http.connection import Connection
from tests.server.serving import until

PATIENCE = 10.0
SECONDS = 0.3  # of each clock
SILENT_SECONDS = 0.8  # of that for clients which are let go
PART = b"x" * 65536
MOST_PARTS = 2000  # far more than sockets hold
MOST_DROPPED_BYTES = 1 << 20
FIN_WAIT_2 = 5  # of TCP_INFO: our half is closed and the other one is not

ended: list[int] = []


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """/flood sends all that is taken, and /more as soon as something is not; others answer at once."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    parts = 0
    if scope["path"] == "/flood":
        gone = asyncio.ensure_future(disconnected(receive))
        while parts < MOST_PARTS and not gone.done():
            await send({"type": "http.response.body", "body": PART, "more_body": True})
            parts += 1
        gone.cancel()
    while scope["path"] == "/more" and not scope["state"]["connection"].transport.get_write_buffer_size():
        await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
    await send({"type": "http.response.body", "body": b"done", "more_body": False})
    ended.append(parts)


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server with clocks of SECONDS."""
    with pytest.MonkeyPatch.context() as patch:
        for clock in ("_HEAD_SECONDS", "_SILENT_READER_SECONDS"):
            patch.setattr(connection_module, clock, SECONDS)
        patch.setattr(early_answers, "_SILENT_SECONDS", SILENT_SECONDS)
        patch.setattr(early_answers, "_MOST_SECONDS", 2 * SILENT_SECONDS)
        patch.setattr(early_answers, "_MOST_DROPPED_BYTES", MOST_DROPPED_BYTES)
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(answer, http=Connection, ws="none", lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        until(lambda: server.started, "the start")
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.fixture
def client(port: int) -> Iterator[socket.socket]:
    """A connection that has sent nothing."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        yield connection


def rest(client: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    return b"".join(iter(lambda: client.recv(1 << 16), b""))


def answered(client: socket.socket) -> bytes:
    """Read a whole response."""
    data = b""
    while not data.endswith((b"done\r\n0\r\n\r\n", b"\r\n\r\ndone")):
        part = client.recv(1000)
        assert part, data
        data += part
    assert data.startswith(b"HTTP/1.1 200 ")
    return data


def request(path: str, headers: str = "", version: str = "1.1") -> bytes:
    return f"POST {path} HTTP/{version}\r\nHost: localhost\r\n{headers}\r\n".encode()


def seconds_until_it_is_closed(client: socket.socket, pause: float) -> float:
    """How long the server takes what is sent; `pause` seconds are between two packets."""
    start = time.monotonic()
    with pytest.raises(ConnectionError):
        while time.monotonic() - start < PATIENCE:
            client.sendall(PART)
            time.sleep(pause)
    return time.monotonic() - start


def test_nothing_waits_for_a_confirmation(client: socket.socket) -> None:
    """Head and body of a response are two packets: the kernel would hold the second one back for 40 ms."""
    seconds = []
    for _ in range(10):
        start = time.monotonic()
        client.sendall(request("/"))
        answered(client)
        seconds.append(time.monotonic() - start)
    assert sorted(seconds)[5] < 0.02


@pytest.mark.parametrize("begun", [b"", b"GET /", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_a_head_that_does_not_come(client: socket.socket, begun: bytes) -> None:
    client.sendall(begun)
    assert rest(client).startswith(b"HTTP/1.1 408 ")


def test_a_head_that_comes_by_drops(client: socket.socket) -> None:
    start = time.monotonic()
    client.settimeout(SECONDS / 10)
    answer = b""
    while not answer and time.monotonic() - start < PATIENCE:
        client.sendall(b"x")
        with contextlib.suppress(TimeoutError):
            answer = client.recv(1000)
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_second_head_that_does_not_come(client: socket.socket) -> None:
    client.sendall(request("/"))
    answered(client)
    time.sleep(2 * SECONDS)  # keeping a connection open is fine
    client.sendall(b"GET / HTT")
    assert rest(client).startswith(b"HTTP/1.1 408 ")


def test_two_requests_at_once(client: socket.socket) -> None:
    client.sendall(request("/") + request("/", "Connection: close\r\n"))
    assert rest(client).count(b"HTTP/1.1 200 ") == 2


def test_a_body_that_nobody_waits_for(client: socket.socket) -> None:
    client.sendall(request("/early", "Content-Length: 1000\r\n"))
    answered(client)
    start = time.monotonic()
    with pytest.raises(ConnectionResetError):
        while client.recv(1000):
            pass
        raise ConnectionResetError  # closed in the other way
    assert time.monotonic() - start < 10 * SECONDS


def test_a_body_that_comes_after_its_answer(client: socket.socket) -> None:
    client.sendall(request("/early", "Content-Length: 10\r\n"))
    answered(client)
    client.sendall(b"x" * 10 + request("/", "Connection: close\r\n"))
    assert rest(client).startswith(b"HTTP/1.1 200 ")


LARGE = f"Content-Length: {1 << 30}\r\n"
CHUNKED = f"Transfer-Encoding: chunked\r\n\r\n{1 << 30:x}\r\n"


@pytest.mark.parametrize(
    "begun",
    [
        request("/", LARGE),
        request("/", LARGE + "Connection: close\r\n"),
        request("/", CHUNKED),
        request("/", "Connection: close\r\n" + CHUNKED),
        request("/", LARGE, version="1.0"),
        request("/", "Content-Length: 300000\r\nConnection: close\r\n"),
        request("/", "Connection: close\r\n") + request("/"),
    ],
    ids=["length", "length, close", "chunked", "chunked, close", "1.0", "small, close", "more, close"],
)
class TestAnAnswerBeforeAllOfItsRequest:
    def test_ends_the_connection_without_a_reset(self, client: socket.socket, begun: bytes) -> None:
        """Which would take the answer from a client that has not read it yet."""
        client.sendall(begun)
        assert b"\r\nconnection: close\r\n" in answered(client).lower()
        for _ in range(3):
            client.sendall(b"x" * 100_000)
            time.sleep(0.02)
        assert client.recv(1000) == b""

    def test_is_there_for_one_that_reads_later(self, client: socket.socket, begun: bytes) -> None:
        client.sendall(begun + b"x" * 200_000)
        time.sleep(SECONDS / 3)
        client.sendall(b"x" * 100_000)
        assert rest(client).startswith(b"HTTP/1.1 200 ")

    def test_ends_at_once_when_its_client_does(self, client: socket.socket, begun: bytes) -> None:
        client.sendall(begun)
        answered(client)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1000) == b""
        start = time.monotonic()
        until(lambda: is_closed(client), "the end")
        assert time.monotonic() - start < 0.7 * SILENT_SECONDS


def is_closed(client: socket.socket) -> bool:
    """Whether both halves are closed, as the kernel says."""
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) != bytes([FIN_WAIT_2])


def test_one_that_sends_no_more_is_not_waited_for(client: socket.socket) -> None:
    client.sendall(request("/", LARGE))
    answered(client)
    time.sleep(1.5 * SILENT_SECONDS)
    assert seconds_until_it_is_closed(client, pause=0.01) < 0.7 * SILENT_SECONDS


def test_nor_one_that_sends_on_and_on(client: socket.socket) -> None:
    client.sendall(request("/", LARGE))
    answered(client)
    assert SILENT_SECONDS < seconds_until_it_is_closed(client, pause=SECONDS / 3) < 4 * SILENT_SECONDS


def test_nor_is_more_taken_than_some(client: socket.socket) -> None:
    client.sendall(request("/", LARGE))
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 100 * MOST_DROPPED_BYTES:
            sent += client.send(PART)
    assert MOST_DROPPED_BYTES < sent < 50 * MOST_DROPPED_BYTES  # sockets hold some
    answered(client)


def test_a_reader_that_leaves_the_last_bytes(client: socket.socket) -> None:
    """Of an answer behind which the connection is closed: they are too few to keep the server waiting."""
    client.sendall(request("/more", "Connection: close\r\n"))
    ended.clear()
    until(lambda: ended, "the end of the answer")
    time.sleep(3 * SECONDS)
    assert not rest(client).endswith(b"done\r\n0\r\n\r\n")


def test_a_reader_that_reads_nothing(client: socket.socket) -> None:
    client.sendall(request("/flood"))
    ended.clear()
    until(lambda: ended, "the end of the answer")
    assert 0 < ended[0] < MOST_PARTS


def test_a_reader_that_reads_slowly_but_reads(client: socket.socket) -> None:
    client.sendall(request("/flood"))
    ended.clear()
    received = 0
    end = time.monotonic() + 6 * SECONDS
    while time.monotonic() < end:
        received += len(client.recv(1 << 20))
        time.sleep(SECONDS / 10)
    assert ended == []
    while received < MOST_PARTS * len(PART):
        received += len(client.recv(1 << 20))
    until(lambda: ended, "the end of the answer")
    assert ended == [MOST_PARTS]


def test_nonsense_in_the_middle_of_an_answer(client: socket.socket) -> None:
    client.sendall(request("/flood", "Transfer-Encoding: chunked\r\n"))
    assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
    client.sendall(b"nonsense\r\n")
    data = b""
    with pytest.raises(ConnectionResetError):
        while True:
            part = client.recv(1 << 20)
            data += part
            if not part:
                raise ConnectionResetError
    assert b"HTTP/1.1 400" not in data
