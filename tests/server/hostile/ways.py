"""What a hostile client does to a server, one function a way; each says what went wrong, or nothing.

Each ends by itself: whatever it waits for, it waits at most as long as LIMIT_SECONDS.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.server.http.test_smuggling import GET, POST, REFUSED
from tests.server.openai.test_fuzz import SCHEMAS
from tests.server.test_schema_bombs import intersection

LIMIT_SECONDS = 30.0
_RESET = b"\1\0\0\0\0\0\0\0"  # for SO_LINGER: what is closed is reset
_CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "turn on the kitchen light"}]}
_COME_BACK = {429, 503}  # said to one of many at once
_NO_PLACE = b"others need the place"
_TRIES = 5

Chance = random.Random
Way = Callable[[Chance, int], str | None]
"""Draws from the first, speaks to the port of 127.0.0.1; None when all went as it should."""


@contextlib.contextmanager
def connected(port: int, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    """A connection to the server."""
    with socket.socket() as client:
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(LIMIT_SECONDS)
        client.connect(("127.0.0.1", port))
        yield client


def rest(client: socket.socket) -> bytes:
    """What comes until the server closes; a reset ends it as well."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(1 << 16):
            data += part
    return data


def asked(port: int, data: bytes, *, half_close: bool = False) -> bytes:
    """All that is answered to some bytes, until the server closes.

    Who does not get to send them, because others need the place, comes back, as OpenAI's client does.
    """
    answer = b""
    for tried in range(_TRIES):
        with connected(port) as client:
            # It may refuse before it has all; then its answer is read, as other clients of HTTP do.
            with contextlib.suppress(ConnectionError):
                client.sendall(data)
                if half_close:
                    client.shutdown(socket.SHUT_WR)
            answer = rest(client)
        if _NO_PLACE not in answer:
            break
        time.sleep(0.1 * tried)
    return answer


def post(body: object, path: str = "/v1/chat/completions", *more: str) -> bytes:
    """A request whose connection the server closes after it."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        "Connection: close",
    ]
    return "\r\n".join([*lines, f"Content-Length: {len(data)}", *more, "\r\n"]).encode() + data


def statuses(answer: bytes) -> list[int]:
    """Of each response, but for interim ones."""
    return [status for status in map(int, re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)) if status != 100]


def expect(answer: bytes, wanted: set[int], count: int = 1) -> str | None:
    """What is wrong with an answer that should have `count` responses of the `wanted` statuses."""
    found = statuses(answer)
    if len(found) == count and set(found) <= wanted:
        return None
    return f"expected {count} of {sorted(wanted)}, found {found or answer[:60]!r}"


def ambiguous_request(chance: Chance, port: int) -> str | None:
    """One that a proxy could understand in another way, with a second one behind it."""
    status, request = REFUSED[chance.choice(sorted(REFUSED))]
    return expect(asked(port, request + GET + b"\r\n"), {status})


def large_head(chance: Chance, port: int) -> str | None:
    """In one packet, or a header after the other."""
    size = chance.choice([20_000, 200_000, 2_000_000])
    kind = chance.choice(["line", "header", "headers", "without end"])
    if kind == "line":
        return expect(asked(port, b"GET /" + b"a" * size + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"), {414})
    if kind == "headers":
        return expect(asked(port, GET + b"X: a\r\n" * (size // 6) + b"\r\n"), {431})
    return expect(asked(port, GET + b"X: " + b"a" * size + (b"\r\n\r\n" if kind == "header" else b"")), {431})


def no_http(chance: Chance, port: int) -> str | None:
    """Bytes of TLS, of other protocols, and of none."""
    data = chance.choice(
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"EHLO x\r\n\r\n",
            b"\0" * 100,
            chance.randbytes(50) + b"\r\n\r\n",
        ]
    )
    return expect(asked(port, data, half_close=True), {400, 505})


def no_json_type(chance: Chance, port: int) -> str | None:
    """What a page of any site may send through a browser."""
    kinds = ["Content-Type: text/plain", "Content-Type: application/x-www-form-urlencoded", "X: a"]
    request = post(_CHAT).replace(b"Content-Type: application/json", chance.choice(kinds).encode())
    return expect(asked(port, request), {415})


def broken_json(chance: Chance, port: int) -> str | None:
    """A right request with bytes changed, left out and put in."""
    data = bytearray(json.dumps({**_CHAT, "max_tokens": 2, "temperature": 0.5, "stop": ["a"]}).encode())
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(data))
        data[place : place + chance.randint(0, 4)] = chance.randbytes(chance.randint(0, 4))
    return expect(asked(port, post(bytes(data))), {200, 400, 404, *_COME_BACK})


def wrong_members(chance: Chance, port: int) -> str | None:
    """Members of any kind and size."""
    values: list[Any] = [
        None,
        True,
        -1,
        0,
        1e308,
        10**400,
        "",
        "\0",
        "\u202e",
        "<|end|>",
        [],
        {},
        "a" * 10_000,
    ]
    names = ["messages", "max_tokens", "temperature", "top_p", "stop", "seed", "n", "logprobs", "stream", "x"]
    members = {chance.choice(names): chance.choice(values) for _ in range(chance.randint(1, 3))}
    return expect(asked(port, post({**_CHAT, "max_tokens": 2, **members})), {200, 400, *_COME_BACK})


def deep_json(chance: Chance, port: int) -> str | None:
    """Lists in lists, and numbers without end."""
    size = chance.choice([1000, 100_000, 700_000])
    data = chance.choice([b"[" * size, b'{"a":' * size, b'{"seed": ' + b"9" * size + b"}"])
    return expect(asked(port, post(data)), {400})


def odd_schema(chance: Chance, port: int) -> str | None:
    """Schemas that make no sense, or hardly any."""
    schema = {"name": "a", "schema": chance.choice(SCHEMAS)}
    body = {**_CHAT, "max_tokens": 3, "response_format": {"type": "json_schema", "json_schema": schema}}
    return expect(asked(port, post(body)), {200, 400, *_COME_BACK})


def schema_bomb(chance: Chance, port: int) -> str | None:
    """A few hundred bytes that would take minutes and gigabytes."""
    schema = {"name": "a", "schema": intersection(30, seed=1000 * chance.randint(1, 3))}
    body = {**_CHAT, "response_format": {"type": "json_schema", "json_schema": schema}}
    return expect(asked(port, post(body)), {400, *_COME_BACK})


def long_prompt(chance: Chance, port: int) -> str | None:
    """Megabytes, and special tokens."""
    text = chance.choice(["a", "<|end|>", "\u4e2d", "light ", "<|"])
    body = {"messages": [{"role": "user", "content": text * chance.choice([10_000, 100_000])}]}
    return expect(asked(port, post(body)), {400, *_COME_BACK})


def image(chance: Chance, port: int) -> str | None:
    """Images for a model that reads text only: files of the server, addresses in its network, megabytes."""
    base64 = "data:image/png;base64," + "A" * chance.choice([0, 4, 1_000_000, 3_000_000])
    paths = ["/etc/passwd", "file:///etc/passwd", "http://169.254.169.254/latest/meta-data", "data:,", "\0"]
    url = chance.choice([base64, *paths])
    parts = [{"type": "image_url", "image_url": {"url": url}}] * chance.choice([1, 3])
    wanted = {413} if len(url) * len(parts) > 4_000_000 else {400}
    body = {"messages": [{"role": "user", "content": parts}]}
    return expect(asked(port, post(body)), {*wanted, *_COME_BACK})


def large_body(chance: Chance, port: int) -> str | None:
    """Past the limit, announced or not."""
    head = POST + b"Connection: close\r\n"
    data = head + b"Content-Length: 99999999\r\n\r\n" + b" " * 100_000
    if chance.random() < 0.5:
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        data = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 80 + b"0\r\n\r\n"
    return expect(asked(port, data), {413})


def tiny_chunks(_chance: Chance, port: int) -> str | None:
    """A right request, in chunks of one byte."""
    data = json.dumps({**_CHAT, "max_tokens": 1, "user": "a" * 5000}).encode()
    chunks = b"".join(b"1;x=y\r\n%c\r\n" % letter for letter in data) + b"0\r\n\r\n"
    head = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    return expect(asked(port, head + chunks), {200, *_COME_BACK})


def wrong_place(chance: Chance, port: int) -> str | None:
    """Paths, methods, hosts and origins that are not ours."""
    end = b"Connection: close\r\n\r\n"
    requests = [
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n", {404}),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n", {404}),
        (b"GET /%00%ff HTTP/1.1\r\nHost: localhost\r\n", {404}),
        (b"DELETE /health HTTP/1.1\r\nHost: localhost\r\n", {405}),
        (b"BREW /v1/models HTTP/1.1\r\nHost: localhost\r\n", {405}),
        (b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n", {403}),
        (GET + b"Origin: https://evil.example\r\n", {403}),
        (GET + b"Upgrade: websocket\r\n", {200}),
        (GET + b"Expect: 100-continue\r\n", {200}),
    ]
    request, wanted = chance.choice(requests)
    return expect(asked(port, request + end), wanted)


def pipeline(chance: Chance, port: int) -> str | None:
    """Many requests in one packet; all are answered."""
    count = chance.randint(2, 60)
    return expect(asked(port, (GET + b"\r\n") * count + GET + b"Connection: close\r\n\r\n"), {200}, count + 1)


def leave_early(chance: Chance, port: int) -> str | None:
    """Close, or reset, somewhere within a request or its answer."""
    data = chance.choice([post({**_CHAT, "stream": True}), post(_CHAT), GET + b"\r\n"])
    with connected(port) as client:
        client.sendall(data[: chance.randint(0, len(data))] if chance.random() < 0.7 else data)
        time.sleep(chance.choice([0.0, 0.0, 0.02]))
        if chance.random() < 0.5:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return None


def half_close(chance: Chance, port: int) -> str | None:
    """Send no more, and read on."""
    request = post({**_CHAT, "stream": chance.random() < 0.5})
    return expect(asked(port, request, half_close=True), {200, *_COME_BACK})


def byte_for_byte(_chance: Chance, port: int) -> str | None:
    """A right request, very slowly."""
    with connected(port) as client:
        with contextlib.suppress(ConnectionError):
            for letter in GET + b"Connection: close\r\n\r\n":
                client.sendall(bytes([letter]))
                time.sleep(0.005)
        answer = rest(client)
        return None if _NO_PLACE in answer else expect(answer, {200})


def never_read(chance: Chance, port: int) -> str | None:
    """Ask for much, and read nothing of it for a while."""
    with connected(port, receive_buffer=4096) as client:
        client.settimeout(0.3)
        with contextlib.suppress(TimeoutError, ConnectionError):
            client.sendall((b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n") * 200)
        time.sleep(chance.choice([0.1, 0.5]))
    return None


def storm(chance: Chance, port: int) -> str | None:
    """Hundreds of connections that ask nothing, closed or reset."""
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            client = stack.enter_context(connected(port))
            if chance.random() < 0.5:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return None


def hold(chance: Chance, port: int) -> str | None:
    """More connections than there are places, silent or within a head or a body, for a second."""
    begun = chance.choice([b"", b"GET /hea", GET, POST + b"Content-Length: 1000\r\n\r\n{"])
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            client = stack.enter_context(connected(port))
            with contextlib.suppress(ConnectionError):
                client.sendall(begun)
        time.sleep(1)
    return None


def silent(chance: Chance, port: int) -> str | None:
    """Say nothing, or only the beginning, until the server gives up."""
    with connected(port) as client:
        client.sendall(chance.choice([b"", b"GET /hea", GET]))
        return expect(rest(client), {408})


QUICK: dict[Way, int] = {
    ambiguous_request: 20,
    large_head: 6,
    no_http: 8,
    no_json_type: 6,
    broken_json: 14,
    wrong_members: 10,
    deep_json: 4,
    odd_schema: 6,
    long_prompt: 3,
    image: 4,
    large_body: 2,
    tiny_chunks: 2,
    wrong_place: 8,
    pipeline: 5,
    leave_early: 14,
    half_close: 6,
    byte_for_byte: 2,
    never_read: 1,
}
"""How often of about a hundred times."""

SLOW: dict[Way, int] = {storm: 1, hold: 1, silent: 1, schema_bomb: 1}
"""Those that take seconds."""
