"""What clients send that is wrong, too much, or from where it must not come."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.server.serving import PATIENCE, Server, serving, until

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
KEY = "correct-horse-battery-staple"


def error_of(response: httpx2.Response, status: int) -> dict[str, Any]:
    """The error of a response, which must have that status and nothing but an error object."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "param", "code"}
    assert document["error"]["message"]
    return dict(document["error"])


def post(server: Server, content: bytes, headers: dict[str, str] = JSON) -> httpx2.Response:
    return httpx2.post(server.url + CHAT, content=content, headers=headers, timeout=PATIENCE)


def raw(server: Server, data: bytes) -> bytes:
    """All that the server answers to some bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


class TestBodies:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"nonsense",
            b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
            b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
            b'{"messages": ' + b"[" * 100_000,
            b'{"messages": [{"role": "user", "content": "a"}], "response_format": '
            + b'{"type": "json_schema", "json_schema": {"schema": ' + b'{"a":' * 5000,
            "{}".encode("utf-16"),
        ],
        ids=["empty", "cut", "nonsense", "not-utf-8", "half-a-pair", "deep", "deep-schema", "utf-16"],
    )  # fmt: skip
    def test_that_are_not_json(self, server: Server, content: bytes) -> None:
        error_of(post(server, content), 400)

    @pytest.mark.parametrize("content", [b"null", b"[]", b'"text"', b"5", b"{}"])
    def test_that_are_other_json(self, server: Server, content: bytes) -> None:
        error_of(post(server, content), 400)

    @pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
    @pytest.mark.parametrize(
        "headers",
        [
            [],
            [("content-type", "")],
            [("content-type", "text/plain")],  # these are what a page of any site may send
            [("content-type", "text/plain; application/json")],
            [("content-type", "application/x-www-form-urlencoded")],
            [("content-type", "multipart/form-data; boundary=x")],
            [("content-type", "application/jsonp")],
            [("content-type", "application/json"), ("content-type", "text/plain")],
            [("content-type", "application/json, text/plain")],
        ],
        ids=str,
    )
    def test_that_are_not_called_json(
        self, server: Server, path: str, headers: list[tuple[str, str]]
    ) -> None:
        body = b'{"messages": [{"role": "user", "content": "a"}]}' if path == CHAT else b'{"prompt": "a"}'
        response = httpx2.post(server.url + path, content=body, headers=headers, timeout=PATIENCE)
        assert "Content-Type: application/json" in error_of(response, 415)["message"]

    @pytest.mark.parametrize(
        "kind",
        [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/json;charset=UTF-8",
            "application/a+json",
        ],
    )
    def test_that_are_called_json(self, server: Server, kind: str) -> None:
        body = b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}'
        assert post(server, body, {"content-type": kind}).status_code == 200

    def test_that_are_compressed(self, server: Server) -> None:
        error_of(post(server, b"{}", {**JSON, "content-encoding": "gzip"}), 415)

    def test_of_100_megabytes(self, server: Server) -> None:
        error_of(post(server, b" " * 100_000_000), 413)

    def test_of_100_megabytes_that_are_not_announced(self, server: Server) -> None:
        chunks = (b" " * 1_000_000 for _ in range(100))
        response = httpx2.post(server.url + CHAT, content=chunks, headers=JSON, timeout=PATIENCE)
        error_of(response, 413)

    def test_of_a_length_that_no_number_holds(self, server: Server) -> None:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {'9' * 200}\r\n\r\n"
        assert raw(server, head.encode()).startswith(b"HTTP/1.1 4")

    def test_that_never_end_do_not_end_the_server(self, server: Server) -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{"
            connection.sendall(head.encode())
            assert server.get("/health").status_code == 200
        assert server.get("/health").status_code == 200


class TestMembers:
    @pytest.mark.parametrize(
        ("members", "param"),
        [
            ({"messages": []}, "messages"),
            ({"messages": "hello"}, "messages"),
            ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
            ({"messages": [{"role": "user"}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
            ({"temperature": -1}, "temperature"),
            ({"temperature": 1e308}, "temperature"),
            ({"temperature": "hot"}, "temperature"),
            ({"top_p": 0}, "top_p"),
            ({"top_p": 1.5}, "top_p"),
            ({"top_k": -2}, "top_k"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"max_tokens": -5}, "max_tokens"),
            ({"max_tokens": 1.5}, "max_tokens"),
            ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
            ({"seed": "x"}, "seed"),
            ({"stop": [""]}, "stop[0]"),
            ({"stop": ["a"] * 17}, "stop"),
            ({"stop": "a" * 2000}, "stop"),
            ({"stream": "yes"}, "stream"),
            ({"stream_options": {"include_usage": True}}, "stream_options"),
            ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
            ({"top_logprobs": 2}, "top_logprobs"),
            ({"response_format": {"type": "xml"}}, "response_format.type"),
            ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
            (
                {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
                None,
            ),
            (
                {
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"schema": {"$ref": "#/nowhere"}},
                    }
                },
                None,
            ),
            ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs"),
            ({"structured_outputs": {"regex": "("}}, None),
            ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
            ({"guided_regex": "a", "grammar": "start: /b/"}, "grammar"),
            ({"response_format": {"type": "json_object"}, "guided_json": {}}, "guided_json"),
            ({"json_schema": {"type": "nonsense"}}, None),
            ({"grammar": "a" * 70_000}, "grammar"),
            ({"grammar": "no grammar"}, None),
            ({"presence_penalty": 2.5}, "presence_penalty"),
            ({"frequency_penalty": "x"}, "frequency_penalty"),
            ({"logit_bias": {"5": 101}}, "logit_bias"),
            ({"logit_bias": {"a": 1}}, "logit_bias"),
            ({"logit_bias": {"999999": 1}}, None),
            ({"min_p": 2}, "min_p"),
            ({"repetition_penalty": 0}, "repetition_penalty"),
            ({"repetition_penalty": 1.1, "repeat_penalty": 1.2}, "repeat_penalty"),
            ({"n": 0}, "n"),
            ({"model": 5}, "model"),
        ],
        ids=str,
    )
    def test_that_make_no_sense(self, server: Server, members: dict[str, Any], param: str | None) -> None:
        body = {"messages": [{"role": "user", "content": "turn on the light"}], **members}
        error = error_of(post(server, json.dumps(body).encode()), 400)
        assert error["type"] == "invalid_request_error"
        if param is not None:
            assert error["param"] == param

    def test_that_are_huge_but_make_sense(self, server: Server) -> None:
        response = server.chat(max_tokens=10**30, seed=-(10**30), temperature=2, top_k=10**30)
        assert response.status_code == 200, response.text


class TestPaths:
    def test_unknown(self, server: Server) -> None:
        assert "'/v1/nothing'" in error_of(server.get("/v1/nothing"), 404)["message"]
        error_of(server.get("/v1/chat/completions/"), 404)

    def test_wrong_method(self, server: Server) -> None:
        response = server.get(CHAT)
        error_of(response, 405)
        assert response.headers["allow"] == "POST"
        error_of(httpx2.delete(server.url + "/health"), 405)
        error_of(httpx2.request("BREW", server.url + "/v1/models"), 405)

    def test_an_empty_body_of_head(self, server: Server) -> None:
        response = httpx2.head(server.url + "/health")
        assert (response.status_code, response.content) == (200, b""), server.log


class TestHeads:
    def test_too_many_headers(self, server: Server) -> None:
        flood = "".join(f"X-{i}: {'a' * 50}\r\n" for i in range(10_000))
        answer = raw(server, f"GET /health HTTP/1.1\r\nHost: localhost\r\n{flood}\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b"expected at most 16384 bytes of headers" in answer

    def test_one_that_is_too_large_is_refused_however_it_arrives(self, server: Server) -> None:
        """In one read, or byte for byte beside others: h11 looks only at what has come so far."""
        head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n"
        assert raw(server, head).startswith(b"HTTP/1.1 431 ")
        first = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        answers = raw(server, first + head)
        assert answers.startswith(b"HTTP/1.1 200 ") and answers.count(b"HTTP/1.1 431 ") == 1

    def test_of_many_headers(self, server: Server) -> None:
        def head(count: int) -> bytes:
            return b"GET /health HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n" + b"X: a\r\n" * count

        assert raw(server, head(98) + b"\r\n").startswith(b"HTTP/1.1 200 ")
        assert raw(server, head(99) + b"\r\n").startswith(b"HTTP/1.1 431 ")
        assert raw(server, head(200)).startswith(b"HTTP/1.1 431 ")  # before it is whole

    def test_of_a_long_request_line(self, server: Server) -> None:
        def line(size: int) -> bytes:
            return b"GET /health?" + b"a" * (size - 21) + b" HTTP/1.1"

        rest = b"\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert raw(server, line(8192) + rest).startswith(b"HTTP/1.1 200 ")
        assert raw(server, line(8193) + rest).startswith(b"HTTP/1.1 414 ")
        assert raw(server, line(9000)[:-9]).startswith(b"HTTP/1.1 414 ")  # before it is whole

    def test_a_header_without_end(self, server: Server) -> None:
        answer = raw(server, b"GET /health HTTP/1.1\r\nX: " + b"a" * 1_000_000)
        assert answer.startswith(b"HTTP/1.1 431 ")

    @pytest.mark.parametrize(
        "data", [b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"nonsense\r\n\r\n", b"\0\r\n\r\n"]
    )
    def test_no_http(self, server: Server, data: bytes) -> None:
        answer = raw(server, data)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


class TestOtherMachines:
    """A page of another site, shown by a browser on this machine, must not reach a server on 127.0.0.1."""

    @pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1", "[::1]:80", "127.1.2.3"])
    def test_hosts_of_this_machine(self, server: Server, host: str) -> None:
        assert server.get("/v1/models", headers={"host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:8080", "localhost.evil.example", "10.0.0.1", "", "[::1"]
    )
    def test_hosts_of_others(self, server: Server, host: str) -> None:
        for path in ("/v1/models", "/", "/health", "/nothing"):
            error_of(server.get(path, headers={"host": host}), 403)

    @pytest.mark.parametrize(
        "origin", ["https://evil.example", "null", "http://localhost.evil.example", "file://"]
    )
    def test_origins_of_others(self, server: Server, origin: str) -> None:
        error_of(server.get("/v1/models", headers={"origin": origin}), 403)

    def test_origins_of_this_machine(self, server: Server) -> None:
        response = server.get("/v1/models", headers={"origin": server.url})
        assert response.status_code == 200
        assert not [name for name in response.headers if name.startswith("access-control")]

    def test_those_that_are_allowed(self, demo_bundle: Path, tmp_path: Path) -> None:
        options = ("--allow-origin", "https://app.example", "--allow-host", "Box.example")
        with serving(demo_bundle, tmp_path, *options) as server:
            headers = {"origin": "https://app.example", "host": "box.example"}
            response = server.get("/v1/models", headers=headers)
            assert response.status_code == 200
            assert response.headers["access-control-allow-origin"] == "https://app.example"
            asked = {
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,content-type,x-stainless-os",
            }
            preflight = httpx2.options(server.url + CHAT, headers={**headers, **asked})
            assert preflight.status_code == 200
            allowed = preflight.headers["access-control-allow-headers"]
            assert {"authorization", "content-type", "x-stainless-os"} <= {*allowed.split(",")}
            assert server.get("/v1/models", headers={"origin": "https://other.example"}).status_code == 403


class TestKey:
    @pytest.fixture(scope="class")
    def locked(self, demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        folder = tmp_path_factory.mktemp("locked")
        (folder / "key").write_text(KEY + "\n")
        (folder / "key").chmod(0o600)
        options = ("--host", "0.0.0.0", "--api-key-file", folder / "key", "--log-prompts")
        with serving(demo_bundle, folder, *options) as server:
            yield server

    @pytest.mark.parametrize("path", ["/v1/models", "/v1/models/x", "/metrics", "/v1/nothing"])
    def test_it_is_needed(self, locked: Server, path: str) -> None:
        error = error_of(locked.get(path), 401)
        assert error["code"] == "invalid_api_key"

    @pytest.mark.parametrize(
        "value",
        ["", "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", "Bearer \u00e4"],
    )
    def test_another_is_none(self, locked: Server, value: str) -> None:
        headers = {"authorization": value.encode("latin-1")}
        error_of(httpx2.get(locked.url + "/v1/models", headers=headers), 401)  # type: ignore[arg-type]

    def test_it_opens(self, locked: Server) -> None:
        client = locked.client(api_key=KEY)
        assert client.models.list().data
        answer = client.chat.completions.create(
            model="demo-cpu", messages=[{"role": "user", "content": "turn on the kitchen light"}]
        )
        assert answer.choices[0].message.content

    @pytest.mark.parametrize("path", ["/health", "/openapi.json"])
    def test_what_is_open(self, locked: Server, path: str) -> None:
        assert locked.get(path).status_code == 200

    def test_it_is_never_logged(self, locked: Server) -> None:
        for secret in (KEY, KEY + "x"):
            locked.get("/v1/models", headers={"authorization": f"Bearer {secret}"})
            locked.get(f"/v1/models?x={secret}")
        assert locked.get("/health").status_code == 200
        until(lambda: "GET /health 200" in locked.log, "the last line")
        assert "/v1/models 401" in locked.log
        assert KEY not in locked.log

    def test_the_engine_does_not_get_it(self, demo_bundle: Path, tmp_path: Path) -> None:
        with serving(demo_bundle, tmp_path, EDGEPHI_API_KEY=KEY) as server:
            assert server.get("/v1/models").status_code == 401
            assert server.get("/v1/models", headers={"authorization": f"bearer {KEY}"}).status_code == 200
            assert KEY.encode() not in Path(f"/proc/{server.worker()}/environ").read_bytes()


class TestLogs:
    def test_one_line_a_request_without_its_text(self, server: Server) -> None:
        line = server.line_of(server.chat("turn on the secret light"))
        assert "127.0.0.1 POST /v1/chat/completions 200 " in line
        assert "generated_tokens=" in line
        assert "secret" not in server.log

    def test_text_when_it_is_asked_for(self, demo_bundle: Path, tmp_path: Path) -> None:
        with serving(demo_bundle, tmp_path, "--log-prompts", "--log-json") as server:
            first = json.loads(server.line_of(server.chat("turn on\nthe secret light")))
            second = json.loads(server.line_of(server.get("/\u2028forged%0aline")))
        assert (first["path"], first["status"]) == (CHAT, 200)
        assert first["prompt"] == [{"role": "user", "content": "turn on\nthe secret light"}]
        assert second["status"] == 404

    def test_a_path_cannot_forge_a_line(self, server: Server) -> None:
        line = server.line_of(server.get("/%0a2026-01-01T00:00:00Z%20forged%1b[31m"))
        assert "GET /?2026-01-01T00:00:00Z%20forged?[31m 404" in line

    def test_a_path_cannot_forge_a_status(self, server: Server) -> None:
        line = server.line_of(server.get("/health%20200%20seconds=0.0%20id=none"))
        assert "GET /health%20200%20seconds=0.0%20id=none 404 " in line
