"""OpenAI's own client against `edgephi serve`."""

import json
import re
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

import edgephi.runtime
from edgephi.bundle.manifest import read_manifest
from edgephi.runtime.session import Options, Session
from tests.server.conftest import CONTEXT
from tests.server.serving import Server

PROMPT = "turn on the kitchen light"
MODEL = "demo-cpu"
SCHEMA = {
    "type": "object",
    "properties": {"room": {"enum": ["kitchen", "bath"]}, "level": {"type": "integer"}},
    "required": ["room", "level"],
    "additionalProperties": False,
}


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def demo_session(demo_bundle: Path) -> Session:
    """The bundle without any server."""
    return edgephi.runtime.load(demo_bundle)


@pytest.fixture(scope="module")
def expected(demo_session: Session) -> str:
    """The answer to PROMPT without any server."""
    return demo_session.generate(PROMPT).text


class TestModels:
    def test_there_is_one(self, client: openai.OpenAI, demo_bundle: Path) -> None:
        (model,) = client.models.list().data
        manifest = read_manifest(demo_bundle)
        assert model.id == manifest.name == MODEL
        facts = model.model_extra or {}
        assert facts["edgephi"]["context"] == CONTEXT
        assert facts["edgephi"]["provider"] == "cpu"
        assert facts["edgephi"]["engine"].startswith("onnxruntime-genai 0.18")
        assert facts["edgephi"]["parameters"] == manifest.model.parameters
        assert client.models.retrieve(MODEL) == model
        assert client.models.retrieve("edgephi/demo") == model
        with_slash = httpx2.get(f"{client.base_url}models/").json()
        assert [each["id"] for each in with_slash["data"]] == [MODEL]

    def test_another_is_not_found(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match="expected the model 'demo-cpu', found 'gpt-4'"):
            client.chat.completions.create(model="gpt-4", messages=user(PROMPT))
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-4")


class TestChat:
    def test_answers_as_without_a_server(self, client: openai.OpenAI, expected: str) -> None:
        answer = client.chat.completions.create(model=MODEL, messages=user(PROMPT))
        (choice,) = answer.choices
        assert (choice.message.content, choice.message.role) == (expected, "assistant")
        assert choice.finish_reason == "stop"
        assert choice.logprobs is None

    def test_streams_the_same(self, client: openai.OpenAI, expected: str) -> None:
        chunks = list(client.chat.completions.create(model=MODEL, messages=user(PROMPT), stream=True))
        assert chunks[0].choices[0].delta.role == "assistant"
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
        assert "".join(pieces) == expected
        assert len([piece for piece in pieces if piece]) > 3
        assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "stop"]
        assert len({chunk.id for chunk in chunks}) == 1
        assert all(chunk.usage is None for chunk in chunks)

    def test_usage(self, client: openai.OpenAI) -> None:
        usage = client.chat.completions.create(model=MODEL, messages=user(PROMPT)).usage
        assert usage is not None
        assert usage.prompt_tokens > 5
        assert usage.completion_tokens > 5
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens

    def test_usage_of_a_stream(self, client: openai.OpenAI) -> None:
        *others, last = client.chat.completions.create(
            model=MODEL, messages=user(PROMPT), stream=True, stream_options={"include_usage": True}
        )
        assert last.choices == []
        usage = client.chat.completions.create(model=MODEL, messages=user(PROMPT)).usage
        assert usage is not None and last.usage is not None
        # What of the prompt was read before is not the same: the cache holds one answer more by now.
        details = {"prompt_tokens_details"}
        assert last.usage.model_dump(exclude=details) == usage.model_dump(exclude=details)
        assert all(chunk.usage is None for chunk in others)

    def test_what_the_page_shows(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(model=MODEL, messages=user(PROMPT))
        *_, last = client.chat.completions.create(model=MODEL, messages=user(PROMPT), stream=True)
        for extra in (answer.model_extra, last.model_extra):
            numbers = (extra or {})["edgephi"]
            assert numbers["context"] == CONTEXT
            assert numbers["first_token_seconds"] > 0
            assert numbers["decode_tokens_per_second"] > 0
            assert numbers["generated_tokens"] > 5
            assert 0 <= numbers["reused_tokens"] < numbers["prompt_tokens"]

    def test_what_was_read_before_is_not_read_again(self, client: openai.OpenAI) -> None:
        def cached(messages: list[Any]) -> int:
            usage = client.chat.completions.create(model=MODEL, messages=messages).usage
            assert usage is not None and usage.prompt_tokens_details is not None
            return usage.prompt_tokens_details.cached_tokens or 0

        first = user("what is the temperature in the bath room, and in the hall, and in the garden? " * 4)
        cached(first)
        assert cached([*first, {"role": "assistant", "content": "warm"}, *user("and now?")]) > 60

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_a_limit(self, client: openai.OpenAI, expected: str, name: str) -> None:
        answer = client.chat.completions.create(model=MODEL, messages=user(PROMPT), **{name: 4})  # type: ignore[call-overload]
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None and answer.usage.completion_tokens == 4
        text = answer.choices[0].message.content
        assert text and text != expected and expected.startswith(text)

    @pytest.mark.parametrize("stop", ["kitchen", ["nowhere", "kitchen"]])
    @pytest.mark.parametrize("stream", [False, True])
    def test_stop_texts(self, client: openai.OpenAI, expected: str, stop: Any, stream: bool) -> None:
        wanted = expected[: expected.index("kitchen")]
        answer: Any = client.chat.completions.create(
            model=MODEL, messages=user(PROMPT), stop=stop, stream=stream
        )
        if stream:
            chunks = list(answer)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted
            assert chunks[-1].choices[0].finish_reason == "stop"
        else:
            assert answer.choices[0].message.content == wanted
            assert answer.choices[0].finish_reason == "stop"

    def test_a_seed_draws_the_same_again(self, client: openai.OpenAI) -> None:
        def draw(seed: int) -> str | None:
            answer = client.chat.completions.create(
                model=MODEL, messages=user("zzz"), temperature=2, seed=seed, max_tokens=24
            )
            return answer.choices[0].message.content

        assert draw(1) == draw(1)
        assert len({draw(seed) for seed in range(4)}) > 1

    def test_top_p_of_almost_nothing_is_greedy(self, client: openai.OpenAI, expected: str) -> None:
        answer = client.chat.completions.create(model=MODEL, messages=user(PROMPT), temperature=2, top_p=1e-9)
        assert answer.choices[0].message.content == expected

    def test_logprobs(self, client: openai.OpenAI, expected: str) -> None:
        answer = client.chat.completions.create(
            model=MODEL, messages=user(PROMPT), logprobs=True, top_logprobs=3
        )
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None and logprobs.content is not None and answer.usage is not None
        assert len(logprobs.content) == answer.usage.completion_tokens
        assert b"".join(bytes(token.bytes or []) for token in logprobs.content).decode() == expected
        for token in logprobs.content:
            assert token.logprob <= 0
            assert len(token.top_logprobs) == 3
            best = max(token.top_logprobs, key=lambda likely: likely.logprob)
            assert (best.token, best.logprob) == (token.token, token.logprob)  # greedy

    def test_logprobs_of_a_stream(self, client: openai.OpenAI, expected: str) -> None:
        stream = client.chat.completions.create(
            model=MODEL, messages=user(PROMPT), logprobs=True, stream=True
        )
        tokens = [
            token
            for chunk in stream
            for choice in chunk.choices
            if choice.logprobs is not None
            for token in choice.logprobs.content or []
        ]
        assert b"".join(bytes(token.bytes or []) for token in tokens).decode() == expected
        assert all(token.top_logprobs == [] for token in tokens)

    def test_json_of_a_schema(self, client: openai.OpenAI) -> None:
        for seed in range(3):
            answer = client.chat.completions.create(
                model=MODEL,
                messages=user("tell me a story"),
                temperature=2,
                seed=seed,
                max_tokens=200,
                response_format={"type": "json_schema", "json_schema": {"name": "light", "schema": SCHEMA}},
            )
            assert answer.choices[0].finish_reason == "stop"
            document = json.loads(answer.choices[0].message.content or "")
            assert set(document) == {"room", "level"}
            assert document["room"] in ("kitchen", "bath")
            assert isinstance(document["level"], int)

    def test_any_json(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            model=MODEL, messages=user(PROMPT), response_format={"type": "json_object"}
        )
        assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)

    def test_penalties_and_biases_change_what_comes(
        self, client: openai.OpenAI, demo_session: Session
    ) -> None:
        def content(**members: Any) -> str:
            answer = client.chat.completions.create(
                model=MODEL, messages=user(PROMPT), max_tokens=12, **members
            )
            return answer.choices[0].message.content or ""

        bias: Any = {demo_session.engine.encode("7")[-1]: 20.0}
        free, forced = content(), content(logit_bias={str(token): 20 for token in bias})
        assert "7" * 8 in forced
        assert "7" not in free
        for name in ("frequency_penalty", "presence_penalty"):
            told: dict[str, Any] = {name: 2.0}
            said = demo_session.generate(PROMPT, Options(max_tokens=12, logit_bias=bias, **told))
            assert content(logit_bias={str(token): 20 for token in bias}, **told) == said.text
        said = demo_session.generate(PROMPT, Options(max_tokens=12, repetition_penalty=30.0))
        for name in ("repetition_penalty", "repeat_penalty"):
            assert content(extra_body={name: 30.0}) == said.text != free
        drawn = {"temperature": 2.0, "seed": 5}
        said = demo_session.generate(PROMPT, Options(max_tokens=12, min_p=0.2, **drawn))  # type: ignore[arg-type]
        assert content(extra_body={"min_p": 0.2}, **drawn) == said.text
        assert content(extra_body={"top_k": 1}, **drawn) == free
        assert content(extra_body={"top_k": -1}, **drawn) == content(extra_body={"top_k": 0}, **drawn)

    @pytest.mark.parametrize(
        ("members", "pattern"),
        [
            ({"structured_outputs": {"regex": "[a-c]{2}[0-9]"}}, "[a-c]{2}[0-9]"),
            ({"structured_outputs": {"choice": ["a.b", "c|d"]}}, r"a\.b|c\|d"),
            ({"structured_outputs": {"grammar": 'start: "<" /[0-9]{2}/ ">"'}}, "<[0-9]{2}>"),
            ({"structured_outputs": {"json": {"enum": [7, 8]}}}, "7|8"),
            ({"structured_outputs": {"json_object": True}}, r"\{.*"),
            ({"guided_regex": "x{3,4}"}, "x{3,4}"),
            ({"guided_choice": ["on", "off"]}, "on|off"),
            ({"guided_grammar": "start: /y{1,3}z/"}, "y{1,3}z"),
            ({"guided_json": '{"const": null}'}, "null"),
            ({"grammar": 'root ::= "u" [0-9] "v"'}, "u[0-9]v"),
            ({"json_schema": {"type": "boolean"}}, "true|false"),
            ({"response_format": {"type": "json_object", "schema": {"const": "w"}}}, '"w"'),
        ],
        ids=str,
    )
    def test_rules_by_the_names_of_vllm_and_llama_cpp(
        self, client: openai.OpenAI, members: dict[str, Any], pattern: str
    ) -> None:
        answer = client.chat.completions.create(
            model=MODEL, messages=user("tell me a story"), max_tokens=400, extra_body=members
        )
        assert re.fullmatch(pattern, answer.choices[0].message.content or "", re.DOTALL)
        text = client.completions.create(
            model=MODEL, prompt="Once", max_tokens=400, extra_body=members
        ).choices[0]
        assert re.fullmatch(pattern, text.text, re.DOTALL)

    def test_an_answer_goes_back_as_the_client_has_it(self, client: openai.OpenAI) -> None:
        message = client.chat.completions.create(model=MODEL, messages=user(PROMPT)).choices[0].message
        counts = set()
        for told in (message, message.model_dump(), message.model_dump(exclude_none=True)):
            messages: Any = [*user(PROMPT), told, *user("turn it off")]
            usage = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=1).usage
            assert usage is not None
            counts.add(usage.prompt_tokens)
        assert len(counts) == 1

    def test_parts_and_roles(self, client: openai.OpenAI) -> None:
        def prompt_tokens(messages: list[Any]) -> int:
            usage = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=1).usage
            assert usage is not None
            return usage.prompt_tokens

        parts = [{"type": "text", "text": "turn on the"}, {"type": "text", "text": "kitchen light"}]
        lines = user("turn on the\nkitchen light")
        assert prompt_tokens([{"role": "user", "content": parts}]) == prompt_tokens(lines)
        for role in ("system", "developer"):
            told = [{"role": role, "content": "be brief"}, *user(PROMPT)]
            assert prompt_tokens(told) > prompt_tokens(user(PROMPT))


class TestRefused:
    @pytest.mark.parametrize(
        "members",
        [
            {"n": 2},
            {"modalities": ["text", "audio"]},
            {"reasoning_effort": "high"},
            {"store": True},
        ],
        ids=lambda members: next(iter(members)),
    )
    def test_what_is_not_offered(self, client: openai.OpenAI, members: dict[str, Any]) -> None:
        (name,) = members
        with pytest.raises(openai.BadRequestError, match=f"{name} is not supported") as caught:
            client.chat.completions.create(model=MODEL, messages=user(PROMPT), **members)
        assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")

    def test_what_changes_nothing_is_let_through(self, client: openai.OpenAI) -> None:
        client.chat.completions.create(
            model=MODEL,
            messages=user(PROMPT),
            n=1,
            tools=[],
            tool_choice="none",
            presence_penalty=0,
            logit_bias={},
            modalities=["text"],
            store=False,
            user="me",
            metadata={"a": "b"},
        )

    def test_an_image(self, client: openai.OpenAI) -> None:
        image: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        with pytest.raises(openai.BadRequestError, match="this model reads text only"):
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": [image]}])

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_prompt_past_the_context(self, client: openai.OpenAI, stream: bool) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model=MODEL, messages=user("light " * (CONTEXT + 1)), stream=stream
            )
        assert caught.value.code == "context_length_exceeded"
        assert f"the context is {CONTEXT} tokens" in caught.value.message
        assert "tokens" in caught.value.message and any(
            int(word) > CONTEXT for word in caught.value.message.split() if word.isdecimal()
        )

    def test_a_misspelt_option(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="unknown field `temprature`") as caught:
            client.chat.completions.create(model=MODEL, messages=user(PROMPT), extra_body={"temprature": 1})
        assert caught.value.param == "temprature"


def test_the_context_ends_an_answer(server: Server) -> None:
    text = server.chat("turn " * (CONTEXT // 2), temperature=2, seed=1).json()
    usage = text["usage"]
    if text["choices"][0]["finish_reason"] == "length":
        assert usage["total_tokens"] >= CONTEXT - 1


def test_every_response_has_an_id(client: openai.OpenAI) -> None:
    first, second = (client.models.list()._request_id for _ in range(2))
    assert first and second and first != second
