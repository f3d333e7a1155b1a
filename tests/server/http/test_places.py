"""Clients that hold connections and ask nothing do not keep others out, and do not fill the log."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.serving import PATIENCE, Server, serving, until

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HELD: dict[str, bytes] = {
    "silent": b"",
    "within the request line": b"GET /hea",
    "within the headers": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ",
    "within the body": POST + b"Content-Length: 1000\r\n\r\n{",
    "within a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n100\r\n{",
    "refused within the body": POST + b"Content-Length: 99999999\r\n\r\n{",
    "after an answer": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """Thousands of connections need as many files here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("this user may not open so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def held(server: Server, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    """So many connections that have sent so much."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(count):
            clients.append(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE))
            stack.enter_context(clients[-1])
            with contextlib.suppress(ConnectionError):
                clients[-1].sendall(data)
        yield clients


def all_of(client: socket.socket) -> bytes:
    """What comes until the server closes, or resets."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(1 << 16):
            data += part
    return data


@pytest.mark.parametrize("name", HELD)
def test_others_are_answered_while_many_are_held(server: Server, name: str) -> None:
    with held(server, 300, HELD[name]):
        for _ in range(3):
            assert server.get("/health").status_code == 200
            assert server.chat(max_tokens=1).status_code == 200


def test_and_thousands(server: Server) -> None:
    with held(server, 2000, HELD["within the headers"]):
        assert server.get("/health").status_code == 200
        assert server.chat(max_tokens=1).status_code == 200


def test_the_one_that_has_waited_longest_makes_room_and_is_told(server: Server) -> None:
    with held(server, 300, HELD["within the headers"]) as clients:
        answer = clients[0].recv(1000)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"others need the place" in answer
        clients[-1].settimeout(0.2)
        with pytest.raises(TimeoutError):
            clients[-1].recv(1)


def test_one_that_makes_room_within_its_body_reads_why(server: Server) -> None:
    """What it goes on to send must not have the kernel reset the connection before it looks."""
    begun = POST + b"Content-Length: 1000000\r\n\r\n{"
    with held(server, 300, begun) as clients:
        (one, *_), _, _ = select.select(clients, [], [], PATIENCE)
        for _ in range(3):
            one.sendall(b" " * 100_000)
            time.sleep(0.02)
        answer = b"".join(iter(lambda: one.recv(1 << 16), b""))
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"others need the place" in answer


def test_a_storm_is_a_line_in_the_log(demo_bundle: Path, tmp_path: Path) -> None:
    """Even when the process runs out of files, which each connection that could not be taken used to log."""
    with serving(demo_bundle, tmp_path) as server:
        pid = server.process.pid
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        with contextlib.ExitStack() as stack:
            for data in (b"", b"\x16\x03\x01\x02\x00", POST):
                for client in stack.enter_context(held(server, 50, data))[::2]:  # reset, not closed
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            until(lambda: "Too many open files" in server.log, "the line")
        until(lambda: server.get("/health").status_code == 200, "an answer")
        assert server.end() == 0
        assert "bug in edgephi" not in server.log
        requests = server.log.count(" GET /health ") + server.log.count(" POST ")
        assert len(server.log.splitlines()) - requests < 10


def test_nor_is_the_end_of_a_server_that_is_short_of_files_a_bug(demo_bundle: Path, tmp_path: Path) -> None:
    """When asyncio would take connections in again, there is no socket to take them from."""
    with serving(demo_bundle, tmp_path, "--grace", 1) as server:
        pid = server.process.pid
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (50, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        with held(server, 60, HELD["within the body"]) as clients:
            until(lambda: "Too many open files" in server.log, "the line")
            assert server.end() == 0
            answers = [answer for client in clients if (answer := all_of(client))]
        assert all(b"HTTP/1.1 503 " in answer or b"HTTP/1.1 408 " in answer for answer in answers)
        assert any(b"the server is stopping" in answer for answer in answers)
        assert "bug in edgephi" not in server.log
