"""Calls of functions over HTTP, with the client that applications use."""

from __future__ import annotations

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import openai
import pytest
from pydantic import BaseModel

from tests.chat.tools.functions import LIGHT, LIGHTS, TIME
from tests.server.serving import Server
from tests.server.test_schema_bombs import BOMBS

MODEL = "demo-cpu"
ASKED: list[Any] = [{"role": "user", "content": "turn on the light"}]
PARAMETERS = LIGHT["function"]["parameters"]


def asked(client: openai.OpenAI, **members: Any) -> Any:
    """The answer, with room for a call."""
    return client.chat.completions.create(
        **{"model": MODEL, "messages": ASKED, "tools": [LIGHT], "max_tokens": 150, **members}
    )


class TestCalls:
    @pytest.mark.parametrize(
        "choice", ["required", {"type": "function", "function": {"name": "light"}}], ids=["required", "one"]
    )
    def test_are_whole_and_fit_the_schema(self, client: openai.OpenAI, choice: Any) -> None:
        answer = asked(client, tool_choice=choice, parallel_tool_calls=False)
        (answered,) = answer.choices
        (call,) = answered.message.tool_calls
        assert (answered.finish_reason, answered.message.content) == ("tool_calls", None)
        assert (call.type, call.function.name) == ("function", "light")
        jsonschema.validate(json.loads(call.function.arguments), PARAMETERS)

    def test_stream_as_they_are_written(self, client: openai.OpenAI) -> None:
        whole = asked(client, tool_choice="required", parallel_tool_calls=False)
        stream = list(asked(client, tool_choice="required", parallel_tool_calls=False, stream=True))
        deltas = [call for chunk in stream for call in chunk.choices[0].delta.tool_calls or ()]
        first, *others = deltas
        assert (first.index, first.type, first.function.name) == (0, "function", "light")
        assert first.id
        assert len(others) > 3
        assert all((each.index, each.id, each.function.name) == (0, None, None) for each in others)
        arguments = "".join(each.function.arguments for each in deltas)
        assert arguments == whole.choices[0].message.tool_calls[0].function.arguments
        assert stream[-1].choices[0].finish_reason == "tool_calls"
        assert not any(chunk.choices[0].delta.content for chunk in stream)

    def test_the_clients_own_reader_of_streams(self, client: openai.OpenAI) -> None:
        class Light(BaseModel):
            """Switch a light."""

            on: bool
            level: int

        tools: Any = [openai.pydantic_function_tool(Light, name="light")]
        with client.chat.completions.stream(
            model=MODEL, messages=ASKED, tools=tools, tool_choice="required", parallel_tool_calls=False
        ) as stream:
            final = stream.get_final_completion()
        calls = final.choices[0].message.tool_calls
        assert calls is not None and len(calls) == 1
        call = calls[0]
        assert isinstance(call.function.parsed_arguments, Light)

    def test_and_their_results_are_read(self, client: openai.OpenAI) -> None:
        message = asked(client, tool_choice="required", parallel_tool_calls=False).choices[0].message
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "done"}
        behind = [*ASKED, message, result]
        with_tools = asked(client, messages=behind, max_tokens=5)
        without = asked(client, messages=behind, tools=[], max_tokens=5)
        assert with_tools.usage.prompt_tokens > without.usage.prompt_tokens > 60
        assert with_tools.usage.prompt_tokens_details.cached_tokens > 100

    def test_none_at_all(self, client: openai.OpenAI) -> None:
        free = client.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=100)
        answer = asked(client, tool_choice="none", max_tokens=100)
        assert answer.choices[0].message.content == free.choices[0].message.content
        assert answer.choices[0].message.tool_calls is None

    def test_that_are_cut_off_are_left_out_of_a_whole_answer(self, client: openai.OpenAI) -> None:
        (choice,) = asked(client, tool_choice="required", max_tokens=8).choices
        assert (choice.finish_reason, choice.message.tool_calls) == ("length", None)

    def test_in_the_words_that_the_api_had_first(self, client: openai.OpenAI) -> None:
        members: dict[str, Any] = {
            "tools": openai.NOT_GIVEN,
            "functions": [LIGHT["function"]],
            "function_call": {"name": "light"},
        }
        (choice,) = asked(client, **members).choices
        assert (choice.finish_reason, choice.message.tool_calls) == ("function_call", None)
        call = choice.message.function_call
        jsonschema.validate(json.loads(call.arguments), PARAMETERS)
        stream = list(asked(client, stream=True, **members))
        deltas = [each for chunk in stream if (each := chunk.choices[0].delta.function_call)]
        assert deltas[0].name == "light"
        assert "".join(each.arguments for each in deltas) == call.arguments
        assert stream[-1].choices[0].finish_reason == "function_call"
        result = {"role": "function", "name": "light", "content": "done"}
        asked(client, messages=[*ASKED, choice.message, result], max_tokens=2)

    def test_beside_an_answer_that_has_a_schema(self, client: openai.OpenAI) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "seven", "schema": {"const": 7}}}
        (choice,) = asked(client, response_format=form).choices
        assert choice.message.content == "7" or choice.message.tool_calls


class TestRefused:
    @pytest.mark.parametrize(
        ("members", "param"),
        [
            ({"tools": [{"type": "web_search"}]}, "tools[0]"),
            ({"tools": [TIME, {"type": "function", "function": {"name": "a b"}}]}, "tools[1]"),
            ({"tools": [LIGHT] * 200}, "tools"),
            ({"tools": [LIGHT], "tool_choice": "door"}, "tool_choice"),
            ({"tools": [LIGHT], "tool_choice": {"type": "function"}}, "tool_choice"),
            ({"tools": [], "tool_choice": "required"}, "tool_choice"),
            ({"tools": [LIGHT], "functions": [LIGHT["function"]]}, "functions"),
            ({"tools": [], "functions": [{"name": ""}]}, "tools[0]"),
        ],
        ids=str,
    )
    def test_what_is_no_tool_or_no_choice(
        self, client: openai.OpenAI, members: dict[str, Any], param: str
    ) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            asked(client, **members)
        assert caught.value.param == param

    @pytest.mark.parametrize(
        "parameters",
        [{"properties": {"a": {"type": "foo"}}}, {"properties": {"a": {"pattern": "("}}}],
        ids=str,
    )
    def test_a_schema_that_is_none(self, client: openai.OpenAI, parameters: dict[str, Any]) -> None:
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        with pytest.raises(openai.BadRequestError, match="expected a list of tools to hold an answer to"):
            asked(client, tools=[tool])

    def test_a_schema_that_is_too_deep(self, client: openai.OpenAI) -> None:
        schema: dict[str, Any] = {}
        for _ in range(40):
            schema = {"properties": {"a": schema}}
        with pytest.raises(openai.BadRequestError, match="levels"):
            asked(client, tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}])

    @pytest.mark.parametrize(
        "message",
        [
            {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{"}},
            {"role": "user", "content": "?", "tool_calls": [{"id": "1"}]},
        ],
        ids=str,
    )
    def test_a_message_with_calls_that_are_none(self, client: openai.OpenAI, message: Any) -> None:
        with pytest.raises(openai.BadRequestError, match="expected calls"):
            asked(client, messages=[*ASKED, message])


@pytest.mark.parametrize("name", ["in a member", "multiples"])
def test_a_bomb_in_a_tool_is_refused_and_others_are_answered(
    server: Server, client: openai.OpenAI, name: str
) -> None:
    parameters = {"properties": {"a": BOMBS[name]}, "required": ["a"]}
    with pytest.raises(openai.BadRequestError, match="expected a list of tools that takes at most"):
        asked(client, tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}])
    assert asked(client, tools=[LIGHTS], max_tokens=2).choices
    assert "bug in edgephi" not in server.log
