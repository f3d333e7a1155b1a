"""Ollama's API on the wire. Its own client is in `tests/server/clients`."""

import json
from pathlib import Path
from typing import Any

import httpx2
import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest

import edgephi.runtime
from edgephi.bundle.manifest import read_manifest
from edgephi.runtime.session import Options
from edgephi.server.engine.messages import CallPart, End, Piece
from edgephi.server.ollama.writer import OllamaWriter
from tests.server.serving import PATIENCE, Server, serving

PROMPT = "turn on the kitchen light"
USER = {"role": "user", "content": PROMPT}
SYSTEM = {"role": "system", "content": "be brief"}
MODEL = "demo-cpu:latest"


@pytest.fixture(scope="module")
def expected(demo_bundle: Path) -> str:
    """The answer to PROMPT without any server."""
    return edgephi.runtime.load(demo_bundle).generate(PROMPT, Options(system="be brief")).text


def ask(server: Server, path: str, **members: Any) -> httpx2.Response:
    return httpx2.post(f"{server.url}/api/{path}", json={"model": MODEL, **members}, timeout=PATIENCE)


def lines(response: httpx2.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


class TestModels:
    def test_are_listed_with_a_tag(self, ollama_server: Server, demo_bundle: Path) -> None:
        manifest = read_manifest(demo_bundle)
        (model,) = ollama_server.get("/api/tags").json()["models"]
        assert model["name"] == model["model"] == MODEL
        assert model["size"] == sum(file.size for file in manifest.files if file.path.startswith("model/"))
        assert len(model["digest"]) == 64
        assert model["details"]["quantization_level"] == f"Q{manifest.quant.bits}"
        (loaded,) = ollama_server.get("/api/ps").json()["models"]
        assert loaded["name"] == MODEL and loaded["context_length"] == 512
        assert {"expires_at", "size_vram", "digest"} <= loaded.keys()

    @pytest.mark.parametrize("member", ["model", "name"])
    def test_one_is_shown(self, ollama_server: Server, demo_bundle: Path, member: str) -> None:
        manifest = read_manifest(demo_bundle)
        shown = httpx2.post(f"{ollama_server.url}/api/show", json={member: MODEL}).json()
        assert shown["template"] == manifest.chat.template
        family = shown["model_info"]["general.architecture"]
        assert shown["model_info"][f"{family}.context_length"] == 512
        assert shown["model_info"]["general.parameter_count"] == manifest.model.parameters
        assert "completion" in shown["capabilities"]

    def test_one_without_a_name_is_not(self, ollama_server: Server) -> None:
        answer = httpx2.post(f"{ollama_server.url}/api/show", json={})
        assert answer.status_code == 400 and "name of a model" in answer.json()["error"]

    def test_a_version_tells_clients_what_to_expect(self, ollama_server: Server) -> None:
        parts = ollama_server.get("/api/version").json()["version"].split(".")
        assert len(parts) == 3 and all(part.isdecimal() for part in parts)

    def test_another_is_not_found_and_said_so_in_ollamas_way(self, ollama_server: Server) -> None:
        for path in ("chat", "generate", "show"):
            answer = ask(ollama_server, path, model="llama3:latest")
            assert answer.status_code == 404
            assert "llama3" in answer.json()["error"]

    def test_an_adapter_is_a_tag(
        self, demo_bundle: Path, demo_artifact: Path, tmp_path: Path, demo_adapters: dict[str, Path]
    ) -> None:
        with serving(demo_bundle, tmp_path, "--ollama", "--adapter", demo_artifact) as server:
            names = [model["name"] for model in server.get("/api/tags").json()["models"]]
            assert names == [MODEL, *(f"demo-cpu:{name}" for name in demo_adapters)]
            for name in names:
                answer = ask(server, "chat", model=name, messages=[USER], stream=False).json()
                assert answer["model"] == name and answer["done"]


class TestChat:
    def test_streams_lines_unless_told_otherwise(self, ollama_server: Server, expected: str) -> None:
        *others, last = lines(ask(ollama_server, "chat", messages=[USER]))
        assert "".join(line["message"]["content"] for line in others) == expected
        assert not any(line["done"] for line in others) and len(others) > 3
        assert last["done"] and last["done_reason"] == "stop"
        assert last["eval_count"] > 5 and last["prompt_eval_count"] > 5
        assert last["total_duration"] > last["eval_duration"] > 0

    def test_whole(self, ollama_server: Server, expected: str) -> None:
        answer = ask(ollama_server, "chat", messages=[USER], stream=False).json()
        assert answer["message"] == {"role": "assistant", "content": expected}
        assert answer["done"] and answer["done_reason"] == "stop" and answer["model"] == MODEL

    def test_options(self, ollama_server: Server, expected: str) -> None:
        def text(content: str = PROMPT, **options: Any) -> str:
            messages = [{"role": "user", "content": content}]
            answer = ask(ollama_server, "chat", messages=messages, stream=False, options=options).json()
            found: str = answer["message"]["content"]
            return found

        assert expected.startswith(short := text(num_predict=4)) and short != expected
        assert text(num_predict=-1, num_ctx=8192, mirostat=0, numa=False) == expected
        assert text(num_predict=4.0) == short
        assert text(stop=["kitchen"]) == expected[: expected.index("kitchen")]
        assert text(temperature=1.5, seed=3) == text(temperature=1.5, seed=3.0)
        assert text(temperature=1.5, seed=3, top_k=0) == text(temperature=1.5, seed=3, top_k=-1.0)
        assert text(temperature=2, top_k=1) == text(temperature=2, min_p=1.0) == expected
        assert len({text("zzz", temperature=2, seed=seed, num_predict=24) for seed in range(4)}) > 1
        assert text(repeat_penalty=50.0) != expected

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_format(self, ollama_server: Server, stream: bool) -> None:
        schema = {
            "type": "object",
            "properties": {"room": {"enum": ["kitchen", "bath"]}, "level": {"type": "integer"}},
            "required": ["room", "level"],
            "additionalProperties": False,
        }
        for format_ in ("json", schema):
            answer = ask(
                ollama_server,
                "chat",
                messages=[{"role": "user", "content": "tell me a story"}],
                format=format_,
                stream=stream,
                options={"num_predict": 200},
            )
            parts = lines(answer) if stream else [answer.json()]
            document = json.loads("".join(part["message"]["content"] for part in parts))
            jsonschema.validate(document, schema if isinstance(format_, dict) else {"type": "object"})

    def test_logprobs(self, ollama_server: Server, expected: str) -> None:
        answer = ask(ollama_server, "chat", messages=[USER], stream=False, logprobs=True, top_logprobs=2)
        scores = answer.json()["logprobs"]
        assert b"".join(bytes(score["bytes"]) for score in scores).decode() == expected
        assert all(len(score["top_logprobs"]) == 2 for score in scores)
        *others, last = lines(ask(ollama_server, "chat", messages=[USER], logprobs=True))
        assert "".join(score["token"] for line in others for score in line["logprobs"]) == expected
        assert "logprobs" not in last

    def test_a_system_message_of_ones_own(self, ollama_server: Server) -> None:
        def tokens(*messages: dict[str, str]) -> int:
            answer = ask(ollama_server, "chat", messages=messages, stream=False, options={"num_predict": 1})
            count: int = answer.json()["prompt_eval_count"]
            return count

        assert tokens(USER) == tokens(SYSTEM, USER)
        assert tokens({"role": "system", "content": "be very brief please"}, USER) > tokens(USER)

    @pytest.mark.parametrize("stream", [False, True])
    def test_calls_of_functions(self, ollama_server: Server, stream: bool) -> None:
        parameters = {
            "type": "object",
            "properties": {"room": {"enum": ["kitchen", "bath"]}},
            "required": ["room"],
            "additionalProperties": False,
        }
        tool = {"type": "function", "function": {"name": "light_on", "parameters": parameters}}
        answer = ask(
            ollama_server,
            "chat",
            messages=[{"role": "user", "content": "turn on the light in the kitchen"}],
            tools=[tool],
            stream=stream,
        )
        parts = lines(answer) if stream else [answer.json()]
        assert parts[-1]["done"]
        for call in (call for part in parts for call in part["message"].get("tool_calls", [])):
            assert call["function"]["name"] == "light_on"
            jsonschema.validate(call["function"]["arguments"], parameters)

    @pytest.mark.parametrize(
        "arguments", ['{"a": 1e999}', '{"a": %s}' % ("9" * 5000), '{"a": %s}' % ("[" * 3000 + "]" * 3000)]
    )
    def test_arguments_that_no_reader_takes_are_told_as_they_were_written(self, arguments: str) -> None:
        """All of it is JSON, so a schema may allow it."""
        writer = OllamaWriter(model=MODEL, chat=True, scored=False)
        writer.chunks(Piece(0, "", 0.0, calls=(CallPart(0, id="x", name="f"), CallPart(0, arguments))))
        end = End(0, "tool_calls", 0.1, 1, 0, 1, 0.1, 1.0, 1.0, tool_calls=1)
        assert arguments in msgspec.json.encode(writer.closing(end)).decode()

    def test_results_go_back_as_home_assistant_has_them(self, ollama_server: Server) -> None:
        call = {"function": {"name": "light_on", "arguments": {"room": "kitchen"}}}
        messages = [
            USER,
            {"role": "assistant", "content": "", "thinking": None, "tool_calls": [call]},
            {"role": "tool", "content": '{"data": {"success": true}, "error": null}'},
        ]
        answer = ask(
            ollama_server, "chat", messages=messages, stream=False, keep_alive=-1, think=False, format=None
        )
        assert answer.status_code == 200, answer.text

    def test_no_messages_only_load_the_model(self, ollama_server: Server) -> None:
        for path in ("chat", "generate"):
            answer = ask(ollama_server, path, keep_alive="5m").json()
            assert answer["done"] and answer["done_reason"] == "load"


class TestGenerate:
    @pytest.mark.parametrize("stream", [False, True])
    def test_answers_a_prompt(self, ollama_server: Server, expected: str, stream: bool) -> None:
        answer = ask(ollama_server, "generate", prompt=PROMPT, stream=stream)
        parts = lines(answer) if stream else [answer.json()]
        assert "".join(part["response"] for part in parts) == expected
        assert parts[-1]["done"] and parts[-1]["eval_count"] > 5

    def test_raw(self, ollama_server: Server, demo_bundle: Path) -> None:
        text = "turn on the"
        answer = ask(
            ollama_server, "generate", prompt=text, raw=True, stream=False, options={"num_predict": 8}
        )
        session = edgephi.runtime.load(demo_bundle)
        assert answer.json()["response"] == "".join(session.complete(text, Options(max_tokens=8)))

    def test_a_system_message_takes_the_place_of_the_servers(self, ollama_server: Server) -> None:
        counts = [
            ask(ollama_server, "generate", prompt=PROMPT, system=system, stream=False).json()[
                "prompt_eval_count"
            ]
            for system in ("", "be brief", "be very brief please")
        ]
        assert counts[0] == counts[1] < counts[2]


class TestRefused:
    @pytest.mark.parametrize(
        ("path", "members"),
        [
            ("generate", {"prompt": "x", "suffix": "y"}),
            ("generate", {"prompt": "x", "images": ["AAAA"]}),
            ("generate", {"prompt": "x", "template": "{{ .Prompt }}"}),
            ("generate", {"prompt": "x", "context": [1]}),
            ("chat", {"messages": [USER], "think": True}),
            ("chat", {"messages": [USER | {"images": ["AAAA"]}]}),
            ("chat", {"messages": [USER], "format": "xml"}),
            ("chat", {"messages": [USER], "format": {"type": "nothing"}}),
            ("chat", {"messages": [USER], "options": {"temperature": -1}}),
            ("chat", {"messages": [{"role": "user", "content": "light " * 600}]}),
        ],
        ids=str,
    )
    def test_what_is_not_offered(self, ollama_server: Server, path: str, members: dict[str, Any]) -> None:
        answer = ask(ollama_server, path, **members)
        assert answer.status_code == 400
        assert isinstance(answer.json()["error"], str)

    def test_a_body_may_be_called_nothing_but_no_form(self, ollama_server: Server) -> None:
        body = json.dumps({"model": MODEL, "prompt": PROMPT, "stream": False})
        for kind, status in ((None, 200), ("text/plain", 415), ("application/x-www-form-urlencoded", 415)):
            headers = {} if kind is None else {"content-type": kind}
            answer = httpx2.post(f"{ollama_server.url}/api/generate", content=body, headers=headers)
            assert answer.status_code == status
            foreign = {**headers, "origin": "https://example.com"}
            answer = httpx2.post(f"{ollama_server.url}/api/generate", content=body, headers=foreign)
            assert answer.status_code == 403

    def test_what_is_not_known_is_ignored(self, ollama_server: Server) -> None:
        answer = ask(ollama_server, "chat", messages=[USER], stream=False, newest=1, options={"tfs_z": 1.0})
        assert answer.status_code == 200

    def test_paths_that_are_not_offered(self, ollama_server: Server) -> None:
        for path in ("/api/embed", "/api/pull", "/api/"):
            answer = httpx2.post(f"{ollama_server.url}{path}", json={"model": MODEL})
            assert answer.status_code == 404 and isinstance(answer.json()["error"], str)

    def test_it_is_an_option(self, server: Server) -> None:
        assert server.get("/api/tags").status_code == 404
        assert "/api/chat" not in server.get("/openapi.json").json()["paths"]

    def test_it_needs_the_key_too(self, demo_bundle: Path, tmp_path: Path) -> None:
        with serving(demo_bundle, tmp_path, "--ollama", EDGEPHI_API_KEY="secret") as server:
            for path in ("/api/tags", "/api/version", "/api/ps"):
                assert server.get(path).status_code == 401
                with_key = server.get(path, headers={"Authorization": "Bearer secret"})
                assert with_key.status_code == 200
