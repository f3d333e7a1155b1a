"""Schemas of a few hundred bytes that take minutes and gigabytes to compile."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.server.serving import Server, command_line, serving, slowly, until


def intersection(patterns: int, seed: int = 0) -> dict[str, Any]:
    """A text that has to match many patterns at once; each seed makes another one."""
    return {"allOf": [{"type": "string", "pattern": f".*a{seed + i}.*"} for i in range(patterns)]}


BOMBS: dict[str, dict[str, Any]] = {
    "patterns of one text": intersection(30),
    "more of them": intersection(200),
    "in a member": {"type": "object", "properties": {"a": intersection(30)}, "required": ["a"]},
    "multiples": {"type": "integer", "multipleOf": 999983},
    "repetitions": {"type": "string", "pattern": "^((((a{1,100}){1,100}){1,100}){1,100})$"},
    "combinations": {
        "allOf": [
            {
                "anyOf": [
                    {"type": "object", "required": [f"p{i}{j}"], "properties": {f"p{i}{j}": {}}} for j in "ab"
                ]
            }
            for i in range(20)
        ]
    },
}
LIGHT = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
MOST_SECONDS = 30.0  # on a busy machine; without limits they take minutes
MOST_BYTES = 200 << 20


def held_to(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def body(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 5,
        "response_format": held_to(schema),
    }


def peak_bytes(pid: int) -> int:
    (size,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(size) << 10


def compiling(process: int) -> list[int]:
    """The processes that compile schemas for the server, or for its engine."""
    children = []
    for task in Path(f"/proc/{process}/task").iterdir():
        children += (task / "children").read_text().split()
    return [int(pid) for pid in children if b"constraint_process" in command_line(int(pid))]


@pytest.fixture(scope="module")
def quiet(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that nobody else asks."""
    with serving(demo_bundle, tmp_path_factory.mktemp("server"), "--context", 512) as running:
        yield running


@pytest.mark.parametrize("name", BOMBS)
def test_is_refused_in_bounded_time_and_memory(quiet: Server, name: str) -> None:
    worker, before = quiet.worker(), peak_bytes(quiet.worker())
    start = time.monotonic()
    response = quiet.chat(response_format=held_to(BOMBS[name]))
    assert response.status_code == 400, response.text
    assert time.monotonic() - start < MOST_SECONDS
    assert "expected a JSON schema" in response.json()["error"]["message"]
    assert quiet.worker() == worker
    assert peak_bytes(worker) - before < MOST_BYTES
    assert quiet.chat(max_tokens=2).status_code == 200


def test_a_grammar_is_held_to_the_same_limits(quiet: Server) -> None:
    terminal = " & ".join(f"/(?s:.*)a{i}(?s:.*)/" for i in range(40))
    start = time.monotonic()
    response = quiet.chat(structured_outputs={"grammar": f"start: A\nA: {terminal}"})
    assert response.status_code == 400, response.text
    assert "expected a grammar that takes at most" in response.json()["error"]["message"]
    assert time.monotonic() - start < MOST_SECONDS
    assert quiet.chat(max_tokens=2).status_code == 200


def test_the_refusal_says_the_limit_and_comes_at_once_the_second_time(quiet: Server) -> None:
    schema = intersection(30, seed=100)
    first = quiet.chat(response_format=held_to(schema))
    assert re.search(r"takes at most (5 s|512 MB of memory), found one that takes more", first.text)
    start = time.monotonic()
    assert quiet.chat(response_format=held_to(schema)).text == first.text
    assert time.monotonic() - start < 1.0


def test_others_are_answered_meanwhile_and_health_tells(quiet: Server) -> None:
    with ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(quiet.chat, response_format=held_to(intersection(30, seed=200)))
        until(lambda: quiet.get("/health").json()["compiling"] == 1, "the trial")
        assert quiet.chat(max_tokens=2).status_code == 200
        assert quiet.chat(response_format={"type": "json_object"}, max_tokens=2).status_code == 200
        assert not bomb.done()
        assert bomb.result().status_code == 400
    assert quiet.get("/health").json()["compiling"] == 0


def test_a_client_that_goes_away_ends_it(quiet: Server) -> None:
    data = json.dumps(body(intersection(30, seed=300))).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", quiet.port)) as client:
        client.sendall(head + b"content-length: %d\r\n\r\n" % len(data) + data)
        until(lambda: compiling(quiet.process.pid), "the trial")
    until(lambda: quiet.get("/health").json()["compiling"] == 0, "its end")
    until(lambda: not compiling(quiet.process.pid), "the end of its process")


def test_many_at_once_are_tried_one_by_one_and_not_too_many_wait(demo_bundle: Path, tmp_path: Path) -> None:
    with serving(demo_bundle, tmp_path) as server, httpx2.Client(timeout=300) as client:
        url, most = server.url + "/v1/chat/completions", 0
        with ThreadPoolExecutor(20) as pool:
            schemas = [intersection(200, seed=1000 * i) for i in range(20)]
            asked = [pool.submit(client.post, url, json=body(schema)) for schema in schemas]
            until(lambda: any(each.done() for each in asked), "an answer")
            for _ in range(20):
                most = max(most, len(compiling(server.process.pid)))
                time.sleep(0.05)
            assert most <= 1
            assert server.chat(max_tokens=2).status_code == 200
            refused = next(each.result() for each in asked if each.done())
            assert refused.status_code == 429
            assert "schemas and grammars wait to be compiled" in refused.text
            assert server.end() == 0  # whatever is still tried


@pytest.mark.slow
def test_one_that_many_send_at_once_is_tried_once(quiet: Server) -> None:
    schema = held_to(intersection(30, seed=400))
    start = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(quiet.chat, response_format=schema) for _ in range(8)]
        assert {each.result().status_code for each in asked} == {400}
    assert time.monotonic() - start < 20.0  # eight trials take 40 s


@pytest.mark.slow
def test_nobody_waits_for_the_schemas_of_others_for_long(quiet: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        start = time.monotonic()
        asked = [
            pool.submit(quiet.chat, response_format=held_to(intersection(30, seed=500 + 50 * i)))
            for i in range(8)
        ]
        assert {each.result().status_code for each in asked} <= {400, 429}
        assert time.monotonic() - start < MOST_SECONDS
    assert quiet.get("/health").json()["compiling"] == 0


def test_answers_of_a_schema_are_held_to_it_beside_the_engine(demo_bundle: Path, tmp_path: Path) -> None:
    with serving(demo_bundle, tmp_path, **slowly(0.05)) as server:
        for _ in range(2):
            response = server.chat(response_format=held_to(LIGHT))
            assert isinstance(json.loads(response.json()["choices"][0]["message"]["content"])["on"], bool)
        (process,) = compiling(server.worker())  # the trial's has ended
        assert peak_bytes(process) < MOST_BYTES
