"""/v1/responses, with OpenAI's own client."""

import json
import tracemalloc
from pathlib import Path
from typing import Any, Literal

import jsonschema  # type: ignore[import-untyped]
import msgspec
import openai
import pydantic
import pytest

import edgephi.runtime
from edgephi.runtime.session import Options
from edgephi.server.openai.responses.kept import KeptResponses, Talk
from edgephi.server.openai.responses.response import ModelResponse, OutputMessage, OutputText
from edgephi.server.refusal import Refusal
from tests.server.conftest import CONTEXT
from tests.server.serving import serving, slowly

PROMPT = "turn on the kitchen light"
MODEL = "demo-cpu"
ROOMS = {
    "type": "object",
    "properties": {"room": {"enum": ["kitchen", "bath"]}},
    "required": ["room"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "name": "light_on", "parameters": ROOMS, "strict": True}


class Light(pydantic.BaseModel):
    """What an answer is parsed into."""

    model_config = {"extra": "forbid"}
    room: Literal["kitchen", "bath"]
    level: int


@pytest.fixture(scope="module")
def expected(demo_bundle: Path) -> str:
    """The answer to PROMPT without any server."""
    return edgephi.runtime.load(demo_bundle).generate(PROMPT).text


class TestText:
    def test_answers_as_without_a_server(self, client: openai.OpenAI, expected: str) -> None:
        response = client.responses.create(model=MODEL, input=PROMPT)
        assert response.output_text == expected
        assert (response.status, response.error, response.object) == ("completed", None, "response")
        (message,) = response.output
        assert message.type == "message" and message.role == "assistant" and message.status == "completed"
        assert response.usage is not None and response.usage.input_tokens > 5
        assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
        assert (response.model_extra or {})["edgephi"]["context"] == CONTEXT

    def test_streams_the_same(self, client: openai.OpenAI, expected: str) -> None:
        events = list(client.responses.create(model=MODEL, input=PROMPT, stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        kinds = [event.type for event in events]
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(deltas) == expected and len(deltas) > 3
        assert [kind for kind in kinds if kind != "response.output_text.delta"] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        last = events[-1]
        assert last.type == "response.completed" and last.response.output_text == expected
        assert last.response.usage is not None

    def test_the_clients_own_stream_puts_it_together(self, client: openai.OpenAI, expected: str) -> None:
        with client.responses.stream(model=MODEL, input=PROMPT) as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            assert text == stream.get_final_response().output_text == expected

    def test_a_limit(self, client: openai.OpenAI, expected: str) -> None:
        response = client.responses.create(model=MODEL, input=PROMPT, max_output_tokens=4)
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.output_text and expected.startswith(response.output_text)
        *_, last = client.responses.create(model=MODEL, input=PROMPT, max_output_tokens=4, stream=True)
        assert last.type == "response.incomplete" and last.response.output_text == response.output_text

    def test_instructions_are_the_system_message(self, client: openai.OpenAI, demo_bundle: Path) -> None:
        session = edgephi.runtime.load(demo_bundle)
        system: Any = {"role": "system", "content": "be brief"}
        developer: Any = {"role": "developer", "content": "be brief"}
        user: Any = {"role": "user", "content": [{"type": "input_text", "text": PROMPT}]}
        count = session.generate(PROMPT, Options(system="be brief", max_tokens=1)).prompt_tokens
        for members in (
            {"input": PROMPT, "instructions": "be brief"},
            {"input": [system, user]},
            {"input": [developer, user]},
        ):
            usage = client.responses.create(model=MODEL, max_output_tokens=1, **members).usage
            assert usage is not None and usage.input_tokens == count

    def test_drawn(self, client: openai.OpenAI, expected: str) -> None:
        drawn = {
            client.responses.create(model=MODEL, input="zzz", temperature=2, max_output_tokens=24).output_text
            for _ in range(4)
        }
        assert len(drawn) > 1
        response = client.responses.create(model=MODEL, input=PROMPT, temperature=2, top_p=1e-9)
        assert response.output_text == expected

    def test_json_of_a_schema(self, client: openai.OpenAI) -> None:
        form: Any = {"type": "json_schema", "name": "light", "schema": ROOMS, "strict": True}
        response = client.responses.create(model=MODEL, input="tell me a story", text={"format": form})
        jsonschema.validate(json.loads(response.output_text), ROOMS)
        response = client.responses.create(
            model=MODEL, input=PROMPT, text={"format": {"type": "json_object"}}
        )
        assert isinstance(json.loads(response.output_text), dict)

    def test_parsed(self, client: openai.OpenAI) -> None:
        response = client.responses.parse(model=MODEL, input="tell me a story", text_format=Light)
        assert isinstance(response.output_parsed, Light)

    def test_logprobs(self, client: openai.OpenAI, expected: str) -> None:
        include: Any = ["message.output_text.logprobs"]
        response = client.responses.create(model=MODEL, input=PROMPT, include=include, top_logprobs=2)
        (message,) = response.output
        assert message.type == "message" and message.content[0].type == "output_text"
        scores = message.content[0].logprobs or []
        assert b"".join(bytes(score.bytes) for score in scores).decode() == expected
        assert all(len(score.top_logprobs) == 2 for score in scores)
        stream = client.responses.create(model=MODEL, input=PROMPT, include=include, stream=True)
        tokens = [
            score.token
            for event in stream
            if event.type == "response.output_text.delta"
            for score in event.logprobs
        ]
        assert "".join(tokens) == expected


class TestConversation:
    def test_goes_on_from_a_response(self, client: openai.OpenAI) -> None:
        first = client.responses.create(model=MODEL, input=PROMPT)
        second = client.responses.create(model=MODEL, input="turn it off", previous_response_id=first.id)
        told: Any = [
            {"role": "user", "content": PROMPT},
            *first.output,
            {"role": "user", "content": "turn it off"},
        ]
        same = client.responses.create(model=MODEL, input=told, store=False)
        assert second.output_text == same.output_text
        assert second.usage is not None and same.usage is not None
        assert second.usage.input_tokens == same.usage.input_tokens
        assert second.previous_response_id == first.id

    def test_instructions_are_not_carried_over(self, client: openai.OpenAI) -> None:
        first = client.responses.create(model=MODEL, input=PROMPT, instructions="be brief " * 8)
        counts = [
            client.responses.create(
                model=MODEL, input="and now?", previous_response_id=first.id, instructions=instructions
            ).usage
            for instructions in ("be brief " * 8, None)
        ]
        assert counts[0] is not None and counts[1] is not None
        assert counts[0].input_tokens > counts[1].input_tokens + 8

    def test_what_is_not_stored_is_not_there(self, client: openai.OpenAI) -> None:
        first = client.responses.create(model=MODEL, input=PROMPT, store=False)
        with pytest.raises(openai.BadRequestError, match="not kept here") as caught:
            client.responses.create(model=MODEL, input="?", previous_response_id=first.id)
        assert caught.value.code == "previous_response_not_found"
        assert caught.value.param == "previous_response_id"
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(first.id)

    def test_is_read_again_and_deleted(self, client: openai.OpenAI) -> None:
        *_, last = client.responses.create(model=MODEL, input=PROMPT, stream=True)
        assert last.type == "response.completed"
        first = last.response
        found = client.responses.retrieve(first.id)
        assert found.output_text == first.output_text and found.usage == first.usage
        client.responses.delete(first.id)
        for missing in (first.id, "resp_x"):
            with pytest.raises(openai.NotFoundError):
                client.responses.retrieve(missing)

    def test_no_more_are_kept_than_a_bound(self) -> None:
        def response(number: int) -> ModelResponse:
            text = OutputMessage("msg", "completed", (OutputText("x" * 100),))
            return ModelResponse(id=f"r{number}", created_at=0, model="m", status="completed", output=(text,))

        kept = KeptResponses(most=3)
        for number in range(5):
            kept.keep(response(number), Talk())
        assert len(kept) == 3
        with pytest.raises(Refusal):
            kept.before("r1")
        assert kept.before("r2").messages == ({"role": "assistant", "content": "x" * 100},)
        kept.keep(response(5), Talk())  # the one that was used last stays
        assert kept.get("r3") is None and kept.get("r2") is not None
        few = KeptResponses(most_bytes=2000)
        for number in range(5):
            few.keep(response(number), Talk())
        assert len(few) == 2
        few.keep(response(6), Talk(({"role": "user", "content": "x" * 2000},)))
        assert len(few) == 0
        long: list[dict[str, Any]] = [{"metadata": {"a": [[]] * 1000}}, {"instructions": "x" * 2000}]
        for asked_with in long:
            few.keep(msgspec.structs.replace(response(7), **asked_with), Talk())
            assert len(few) == 0

    def test_an_image_that_many_are_about_is_kept_once(self) -> None:
        kept = KeptResponses(most_bytes=10_000)
        talk = Talk(images=(b"x" * 5000,))
        for number in range(5):
            kept.keep(ModelResponse(id=f"r{number}", created_at=0, model="m", status="completed"), talk)
            talk = kept.before(f"r{number}")
        again = Talk(images=(bytes(bytearray(b"x" * 5000)),))  # the same, sent again
        kept.keep(ModelResponse(id="again", created_at=0, model="m", status="completed"), again)
        assert len(kept) == 6
        assert kept.before("again").images[0] is kept.before("r0").images[0]
        other = Talk(images=(b"y" * 5000,))
        kept.keep(ModelResponse(id="other", created_at=0, model="m", status="completed"), other)
        assert len(kept) == 1  # both do not fit, so all that are about the first had to go
        assert kept.forget("other")
        kept.keep(ModelResponse(id="last", created_at=0, model="m", status="completed"), Talk())
        assert len(kept) == 1

    def test_what_is_kept_takes_no_more_memory_than_its_bytes(self) -> None:
        kept = KeptResponses(most_bytes=4 << 20)
        tracemalloc.start()
        for number in range(50):
            nested: dict[str, Any] = {"a": [[] for _ in range(30_000)]}
            kept.keep(
                ModelResponse(id=f"r{number}", created_at=0, model="m", status="completed", metadata=nested),
                Talk(),
            )
            del nested
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(kept) > 20
        assert taken < 6 << 20


class TestTools:
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_call_and_its_result(self, client: openai.OpenAI, stream: bool) -> None:
        asked: dict[str, Any] = {
            "model": MODEL,
            "input": "turn on the light in the kitchen",
            "tools": [TOOL],
            "tool_choice": "required",
            "max_output_tokens": 200,
        }
        if stream:
            with client.responses.stream(**asked) as events:
                kinds = [event.type for event in events]
                first: Any = events.get_final_response()
            assert "response.function_call_arguments.delta" in kinds
            assert "response.function_call_arguments.done" in kinds
        else:
            first = client.responses.create(**asked)
        calls = [item for item in first.output if item.type == "function_call"]
        assert calls and first.status == "completed"
        for call in calls:
            assert call.name == "light_on" and call.call_id and call.status == "completed"
            jsonschema.validate(json.loads(call.arguments), ROOMS)
        results: Any = [
            {"type": "function_call_output", "call_id": call.call_id, "output": "done"} for call in calls
        ]
        second = client.responses.create(
            model=MODEL, input=results, tools=[TOOL], tool_choice="none", previous_response_id=first.id
        )
        told: Any = [{"role": "user", "content": asked["input"]}, *first.output, *results]
        same = client.responses.create(model=MODEL, input=told, tools=[TOOL], tool_choice="none")
        assert second.status == "completed" and second.output_text == same.output_text
        assert second.usage is not None and same.usage is not None
        assert second.usage.input_tokens == same.usage.input_tokens

    @pytest.mark.parametrize("stream", [False, True])
    def test_one_that_is_cut_off(self, client: openai.OpenAI, stream: bool) -> None:
        asked: dict[str, Any] = {
            "model": MODEL,
            "input": PROMPT,
            "tools": [TOOL],
            "tool_choice": {"type": "function", "name": "light_on"},
            "max_output_tokens": 12,
        }
        if stream:
            *_, last = client.responses.create(**asked, stream=True)
            assert last.type == "response.incomplete"
            response: Any = last.response
        else:
            response = client.responses.create(**asked)
        assert response.status == "incomplete"
        assert all(item.status == "incomplete" for item in response.output)
        client.responses.create(model=MODEL, input="and?", previous_response_id=response.id)


@pytest.mark.parametrize(
    "reasoning", [{"effort": None, "summary": None}, {"effort": "none", "summary": None}]
)
def test_members_that_are_null_ask_for_nothing(client: openai.OpenAI, reasoning: Any) -> None:
    answer = client.responses.create(model=MODEL, input=PROMPT, reasoning=reasoning, max_output_tokens=2)
    assert answer.output_text


class TestRefused:
    @pytest.mark.parametrize(
        "members",
        [
            {"background": True},
            {"reasoning": {"effort": "high"}},
            {"truncation": "auto"},
            {"conversation": "conv_1"},
            {"prompt": {"id": "x"}},
            {"include": ["file_search_call.results"]},
            {"tools": [{"type": "web_search"}]},
            {"tool_choice": {"type": "web_search"}},
            {"text": {"verbosity": "high"}},
            {"max_tool_calls": 3},
        ],
        ids=lambda members: next(iter(members)),
    )
    def test_what_is_not_offered(self, client: openai.OpenAI, members: dict[str, Any]) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model=MODEL, input=PROMPT, **members)
        assert caught.value.code == "unsupported_parameter"
        assert (caught.value.param or "").startswith(next(iter(members)))

    @pytest.mark.parametrize(
        "given",
        [
            [],
            [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}],
            [{"type": "item_reference", "id": "x"}],
            [{"type": "function_call", "call_id": "x"}],
            [{"role": "user"}],
            [{}],
        ],
        ids=str,
    )
    def test_input_that_is_none(self, client: openai.OpenAI, given: Any) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model=MODEL, input=given)
        assert (caught.value.param or "").startswith("input")

    @pytest.mark.parametrize("stream", [False, True])
    def test_past_the_context(self, client: openai.OpenAI, stream: bool) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model=MODEL, input="light " * (CONTEXT + 1), stream=stream)
        assert caught.value.code == "context_length_exceeded"

    def test_a_misspelt_option(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="unknown field `temprature`"):
            client.responses.create(model=MODEL, input=PROMPT, extra_body={"temprature": 1})


def test_a_stream_that_breaks_off_says_so(demo_bundle: Path, tmp_path: Path) -> None:
    with serving(demo_bundle, tmp_path, "--deadline", 2, **slowly(0.2)) as server:
        *events, last = server.client().responses.create(model=MODEL, input=PROMPT, stream=True)
    assert events[0].type == "response.created"
    assert last.type == "error" and last.code == "deadline"
    assert last.sequence_number == len(events)
