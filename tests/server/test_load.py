"""Many clients, slow clients, clients that go away, and requests that take too long."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.server.http.test_places import HELD, held
from tests.server.serving import PATIENCE, Server, serving, slowly, until

STEP = 0.05  # seconds of each token
# The demo model stops early, unless it must go on.
LONG: dict[str, Any] = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {"schema": {"type": "array", "items": {"type": "boolean"}, "minItems": 2000}},
    }
}
PROMPT = "turn on the kitchen light"
GENERATED = 'edgephi_tokens_total{kind="generated"}'


@pytest.fixture(scope="module")
def slow(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose engine takes its time, with room for two to wait."""
    options = ("--queue", 2, "--deadline", 5)
    with serving(demo_bundle, tmp_path_factory.mktemp("slow"), *options, **slowly(STEP)) as server:
        yield server
        assert "Traceback" not in server.log
        assert "bug in edgephi" not in server.log


def open_stream(server: Server, receive_buffer: int | None = None, **members: Any) -> socket.socket:
    """A connection that has asked for a stream and read nothing of it."""
    body = json.dumps({"messages": [{"role": "user", "content": PROMPT}], "stream": True, **members})
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(PATIENCE)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall((head + body).encode())
    return connection


def read_until(connection: socket.socket, text: bytes, times: int = 1) -> bytes:
    """What comes until `text` has come so often."""
    data = b""
    while data.count(text) < times:
        part = connection.recv(1 << 16)
        assert part, data
        data += part
    return data


def is_idle(server: Server) -> bool:
    """Whether the engine would start on a request at once."""
    return server.metric("edgephi_engine_busy") == 0 and server.metric("edgephi_queue_length") == 0


class TestQueue:
    def test_many_wait_and_more_are_told_to_come_back(self, slow: Server) -> None:
        expected = slow.chat().json()["choices"][0]["message"]["content"]
        with ThreadPoolExecutor(6) as pool:
            responses = list(pool.map(lambda _: slow.chat(), range(6)))
        answered = [response for response in responses if response.status_code == 200]
        refused = [response for response in responses if response.status_code == 429]
        assert (len(answered), len(refused)) == (3, 3)  # one in the engine, two in the queue
        assert {each.json()["choices"][0]["message"]["content"] for each in answered} == {expected}
        for response in refused:
            assert response.json()["error"]["code"] == "queue_full"
            assert 1 <= int(response.headers["retry-after"]) <= 10

    def test_openais_client_comes_back_by_itself(self, slow: Server) -> None:
        def ask(_: int) -> str | None:
            client = slow.client(max_retries=10)
            messages: list[Any] = [{"role": "user", "content": PROMPT}]
            return (
                client.chat.completions.create(model="demo-cpu", messages=messages).choices[0].message.content
            )

        with ThreadPoolExecutor(5) as pool:
            assert len(set(pool.map(ask, range(5)))) == 1

    def test_others_are_served_while_the_engine_works(self, slow: Server) -> None:
        with open_stream(slow, **LONG) as connection:
            read_until(connection, b"data: ", 3)
            start = time.monotonic()
            assert slow.get("/health").status_code == 200
            assert slow.get("/v1/models").status_code == 200
            assert time.monotonic() - start < 10 * STEP

    def test_one_that_is_answered_or_waits_never_makes_room(self, slow: Server) -> None:
        """For connections that only take places: see `test_places`."""
        until(lambda: is_idle(slow), "idle")
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(slow.chat, max_tokens=6) for _ in range(3)]
            until(lambda: slow.metric("edgephi_queue_length") == 2, "the queue")
            with held(slow, 600, HELD["within the body"]):
                assert [each.result().status_code for each in asked] == [200, 200, 200]


class TestClientsThatGoAway:
    @pytest.mark.parametrize("stream", [True, False])
    def test_the_engine_stops_within_one_token(self, slow: Server, stream: bool) -> None:
        until(lambda: is_idle(slow), "idle")
        before, start = slow.metric(GENERATED), time.monotonic()
        with open_stream(slow, stream=stream, **LONG):
            until(lambda: slow.metric("edgephi_engine_busy") == 1, "the start")
            time.sleep(6 * STEP)
        seconds = time.monotonic() - start
        until(lambda: is_idle(slow), "idle")
        # Each token takes a step at least: so many were possible, and two for the news to get there. Without
        # a stream it takes 0.1 s and a look to know a client that is gone from one that only sends no more.
        seconds += 0 if stream else 0.2
        assert 1 <= slow.metric(GENERATED) - before <= seconds / STEP + 2

    def test_nor_does_it_read_on(self, slow: Server) -> None:
        messages = [{"role": "user", "content": "turn on the kitchen light, " * 100}]
        with open_stream(slow, messages=messages) as connection:
            data = read_until(connection, b": prefill ", 2)
        done, total = map(int, data.split(b": prefill ")[-1].split()[0].split(b"/"))
        until(lambda: is_idle(slow), "idle")
        usage = slow.chat(messages=messages, max_tokens=1).json()["usage"]
        assert usage["prompt_tokens"] == total
        # What was read stays in the cache, and tells how much that was: two pieces more at most.
        assert done <= usage["prompt_tokens_details"]["cached_tokens"] <= done + 64 < total

    def test_those_who_wait_leave_the_queue(self, slow: Server) -> None:
        with open_stream(slow, **LONG) as first:
            read_until(first, b"data: ", 2)
            with open_stream(slow):
                until(lambda: slow.metric("edgephi_queue_length") == 1, "waiting")
            until(lambda: slow.metric("edgephi_queue_length") == 0, "leaving")
        until(lambda: is_idle(slow), "idle")
        assert " 499 " in slow.log


class TestDeadline:
    def test_in_the_queue(self, slow: Server) -> None:
        with open_stream(slow, **LONG) as first:
            read_until(first, b"data: ", 2)
            time.sleep(1)
            response = slow.chat(max_tokens=2)
            assert response.status_code == 200
            rest = read_until(first, b"\r\n0\r\n\r\n")
        assert b'"code":"deadline"' in rest
        assert b"the answer was not finished within 5 s" in rest
        assert b"[DONE]" not in rest

    def test_of_a_whole_answer(self, slow: Server) -> None:
        start = time.monotonic()
        response = slow.chat(**LONG)
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "deadline"
        assert 4.9 < time.monotonic() - start < 6
        until(lambda: is_idle(slow), "idle")

    def test_openais_client_sees_an_error(self, slow: Server) -> None:
        messages: list[Any] = [{"role": "user", "content": PROMPT}]
        stream = slow.client().chat.completions.create(
            model="demo-cpu", messages=messages, stream=True, extra_body=LONG
        )
        with pytest.raises(openai.APIError, match="not finished within 5 s"):
            list(stream)


def test_a_slow_reader_does_not_hold_up_others(demo_bundle: Path, tmp_path: Path) -> None:
    with serving(demo_bundle, tmp_path) as server:
        many = {**LONG, "logprobs": True, "top_logprobs": 20, "max_tokens": 600}
        with open_stream(server, receive_buffer=4096, **many) as reader:
            until(lambda: server.metric(GENERATED) > 0, "the end of the long answer")
            start = time.monotonic()
            assert server.chat().status_code == 200
            assert time.monotonic() - start < 1
            # And it still gets all of its own.
            data = read_until(reader, b"data: [DONE]\n\n\r\n0\r\n\r\n")
            assert data.startswith(b"HTTP/1.1 200 OK")
            assert len(data) > 500_000


def test_answers_are_not_mixed(server: Server) -> None:
    prompts = [f"turn on the {room} light" for room in ("kitchen", "bath", "hall", "bedroom", "living room")]
    expected = {prompt: server.chat(prompt).json()["choices"][0]["message"]["content"] for prompt in prompts}
    lock = threading.Lock()
    wrong: list[str] = []

    def ask(i: int) -> None:
        prompt = prompts[i % len(prompts)]
        response = server.chat(prompt)
        while response.status_code == 429:
            time.sleep(0.05)
            response = server.chat(prompt)
        answer = response.json()["choices"][0]["message"]["content"]
        if answer != expected[prompt]:
            with lock:
                wrong.append(f"{prompt}: {answer}")

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(ask, range(100)))
    assert wrong == []
    assert len(set(expected.values())) == len(prompts)
