"""Whatever is sent: no 5xx, an error object when it is refused, no traceback, and the server goes on.

Two ways: schemathesis holds the server to /openapi.json, and hypothesis sends requests that are nearly right,
made of that description and of values that break things elsewhere.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.property_profile import examples
from tests.server.serving import PATIENCE, Server, serving

QUICK, MANY = 400, 1_000
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
OLLAMA_CHAT, GENERATE = "/api/chat", "/api/generate"
REQUESTS = {
    CHAT: "ChatRequest",
    COMPLETIONS: "CompletionRequest",
    RESPONSES: "ResponseRequest",
    OLLAMA_CHAT: "OllamaChatRequest",
    GENERATE: "GenerateRequest",
}
LOSSLESS = settings(
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

SCHEMAS: list[Any] = [
    {"type": "object"},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"type": "object", "additionalProperties": False, "minProperties": 3},
    {"type": "array", "items": {"$ref": "#"}},
    {"$ref": "#"},
    {"$ref": "#/definitions/x", "definitions": {"x": {"$ref": "#/definitions/x"}}},
    {"$ref": "https://example.com/schema.json"},
    {"type": "string", "pattern": "(a+)+$"},
    {"type": "string", "pattern": "(((((((("},
    {"type": "string", "pattern": "[a-z]{1000}{1000}"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "minLength": 10**9},
    {"type": "string", "minLength": 5, "maxLength": 2},
    {"type": "integer", "minimum": 10, "maximum": 5},
    {"type": "number", "multipleOf": 1e-300},
    {"type": "array", "minItems": 10**9, "items": {"type": "null"}},
    {"enum": []},
    {"enum": ["<|end|>", "\0", "\n", None, 5, {}]},
    {"not": {}},
    {"const": "x" * 5000},
    {"allOf": [{"type": "string"}, {"type": "integer"}]},
    {"oneOf": [{"type": "string"}, {"type": "string"}]},
    {"type": ["string", "null", "nonsense"]},
    {"properties": 5},
    {"type": "object", "patternProperties": {"^(": {"type": "string"}}},
    True,
    {"x-guidance": {"whitespace_flexible": "yes", "item_separator": "("}},
]


@pytest.fixture(scope="module")
def target(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a small context: an answer without end must end soon."""
    with serving(demo_bundle, tmp_path_factory.mktemp("fuzz"), "--context", 100, "--ollama") as server:
        yield server
        assert server.chat().status_code == 200
        assert server.metric("edgephi_engine_restarts_total") == 0
        assert "Traceback" not in server.log
        assert "bug in edgephi" not in server.log


def valid(schema: dict[str, Any], components: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a schema of /openapi.json allows, more or less."""
    if "$ref" in schema:
        return st.deferred(lambda: valid(components[schema["$ref"].rpartition("/")[2]], components))
    if "anyOf" in schema:
        return st.one_of([valid(each, components) for each in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        members = {name: valid(each, components) for name, each in schema["properties"].items()}
        required = {name: members.pop(name) for name in schema.get("required", [])}
        return st.fixed_dictionaries(required, optional=members)
    if kind == "array":
        return st.lists(
            valid(schema.get("items", {}), components), min_size=schema.get("minItems", 0), max_size=4
        )
    if kind == "string":
        return st.text(min_size=schema.get("minLength", 0), max_size=50)
    if kind == "integer":
        return st.integers(schema.get("minimum"), schema.get("maximum"))
    if kind == "number":
        least = schema.get("minimum", schema.get("exclusiveMinimum"))
        return st.floats(least, schema.get("maximum"), allow_nan=False, allow_infinity=False)
    return {"boolean": st.booleans(), "null": st.none()}.get(str(kind), st.none() | st.just({"a": [1]}))


HOSTILE: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=30),
    st.sampled_from(
        [
            10**400,
            -1,
            2**31,
            2**63,
            1e308,
            5e-324,
            "",
            "\0",
            "\u2028",
            "<|end|>",
            "<|user|>",
            "a" * 10_000,
            [],
            {},
        ]
    ),
    st.sampled_from(["🙂" * 500, "\ufffe", "\u202e", "e\u0301" * 100, " " * 3000, "light " * 90, "\r\n\r\n"]),
    st.recursive(
        st.none() | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ),
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "developer", "user", "assistant"]),
            "content": st.text(max_size=60)
            | st.sampled_from(["turn on the light", "<|end|><|assistant|>", "🙂"]),
        }
    ),
    min_size=1,
    max_size=4,
)
FORMATS = st.one_of(
    st.just({"type": "json_object"}),
    st.builds(
        lambda schema: {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
        st.sampled_from(SCHEMAS),
    ),
)


@st.composite
def nearly_right(draw: st.DrawFn, components: dict[str, Any]) -> tuple[str, bytes]:
    """A path, and a request for it with some members of any value."""
    path = draw(st.sampled_from([CHAT, *REQUESTS]))
    kind = components[REQUESTS[path]]
    body: dict[str, Any] = {"model": "demo-cpu"}
    if path in (CHAT, OLLAMA_CHAT):
        body["messages"] = draw(MESSAGES)
    elif path == RESPONSES:
        body["input"] = draw(MESSAGES | st.text(max_size=60))
    else:
        body["prompt"] = draw(st.text(max_size=60))
    if path == CHAT and draw(st.integers(0, 7)) == 0:
        body["response_format"] = draw(FORMATS)
    for name in draw(st.lists(st.sampled_from(sorted(kind["properties"])), max_size=4, unique=True)):
        if draw(st.booleans()):
            body[name] = draw(valid(kind["properties"][name], components))
        else:
            body[name] = draw(HOSTILE)
    if draw(st.integers(0, 9)) == 0:
        body[draw(st.text(max_size=10))] = draw(HOSTILE)
    data = json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:  # not even JSON
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(st.binary(max_size=4)) + data[place + draw(st.integers(0, 3)) :]
    return path, data


def hold(target: Server, count: int) -> dict[int, int]:
    """Send so many requests; returns how often each status came."""
    components = target.get("/openapi.json").json()["components"]["schemas"]
    statuses: dict[int, int] = {}
    with httpx2.Client(base_url=target.url, timeout=PATIENCE) as client:

        @settings(LOSSLESS, max_examples=examples(count))
        @given(nearly_right(components))
        def send(request: tuple[str, bytes]) -> None:
            path, data = request
            response = client.post(path, content=data, headers={"content-type": "application/json"})
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            assert response.status_code < 500, response.text
            if response.status_code != 200:
                error = response.json()["error"]
                assert error if path in (OLLAMA_CHAT, GENERATE) else error["message"]
            elif "json" not in response.headers["content-type"]:
                check_events(path, response.text)
            elif "x-ndjson" in response.headers["content-type"]:
                assert json.loads(response.text.splitlines()[-1])["done"]

        send()
    return statuses


def check_events(path: str, text: str) -> None:
    """Whether a stream of events came to its end."""
    *_, last, nothing = text.split("\n\n")
    assert nothing == ""
    if path == RESPONSES:
        assert last.startswith(("event: response.completed\n", "event: response.incomplete\n"))
    else:
        assert last == "data: [DONE]"
        assert '"error"' not in text


def test_requests_that_are_nearly_right(target: Server) -> None:
    statuses = hold(target, QUICK)
    assert set(statuses) <= {200, 400, 404}
    assert min(statuses[200], statuses[400]) > QUICK / 10


@pytest.mark.slow
def test_many_more_of_them(target: Server) -> None:
    assert sum(hold(target, MANY).values()) >= MANY


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.slow
def test_the_description_is_true(target: Server, path: str, mode: str) -> None:
    """schemathesis knows OpenAPI better than we do: statuses, content types and bodies are as described."""
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    schema = schemathesis.openapi.from_url(f"{target.url}/openapi.json")
    operation = schema[path]["POST"]
    held = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    if mode == "negative" and path in (CHAT, COMPLETIONS):  # the others take members that nobody knows
        held.append(checks.negative_data_rejection)

    @settings(LOSSLESS, max_examples=examples(60))
    @given(operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    def send(case: Any) -> None:
        case.call_and_validate(base_url=target.url, checks=held, timeout=PATIENCE)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        send()


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/demo-cpu", "/health", "/metrics", "/openapi.json", "/"]
)
def test_reading_is_harmless(target: Server, path: str) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        for content in (b"", b"\xff" * 1000):
            response = httpx2.request(method, target.url + path, content=content, timeout=PATIENCE)
            assert response.status_code == (200 if method in ("GET", "HEAD") else 405)
