"""Conversations with calls and their results, as each model's template takes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgephi.chat.message_text import MessageText, Own
from edgephi.chat.template import ChatTemplate
from edgephi.chat.tools.call_form import PHI_4_MINI_FORM, TAUGHT_FORM, CallForm, call_form
from edgephi.chat.tools.conversation import template_input
from edgephi.chat.tools.function import functions
from edgephi.errors import BadInputError
from tests.chat import shapes
from tests.chat.tools.functions import LIGHT, TIME, TOOLS

ARGUMENTS = '{"room": "Küche",  "on": true}'  # as the model wrote it, space and all
CALL = {"id": "abcdefgh1", "type": "function", "function": {"name": "light", "arguments": ARGUMENTS}}
TIME_CALL = {"id": "abcdefgh2", "type": "function", "function": {"name": "get_time", "arguments": ""}}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "user", "content": "Is it late?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL, TIME_CALL]},
    {"role": "tool", "content": "done", "tool_call_id": "abcdefgh1"},
    {"role": "tool", "content": "23:10", "tool_call_id": "abcdefgh2"},
]


def text_of(content: MessageText) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text if isinstance(part, Own) else part for part in content)


def texts(
    form: CallForm, messages: list[dict[str, Any]], tools: list[Any], *, has_system: bool = True
) -> Any:
    """Roles and contents of what a template gets."""
    asked = template_input(form, messages, functions(tools), has_system=has_system)
    assert asked.tools is None
    return [(message["role"], text_of(message["content"])) for message in asked.messages]


class TestOfModelsThatAreTaught:
    def test_functions_stand_in_the_system_message(self) -> None:
        (role, system), user = texts(TAUGHT_FORM, CONVERSATION[:1], TOOLS)
        assert (role, user) == ("system", ("user", "Is it late?"))
        described = system.split("<tools>\n")[1].split("\n</tools>")[0].splitlines()
        assert [json.loads(line)["name"] for line in described] == ["light", "lights", "get_time"]
        assert json.loads(described[0])["parameters"] == LIGHT["function"]["parameters"]
        assert '<tool_call>\n{"name": "NAME", "arguments": {…}}\n</tool_call>' in system

    def test_behind_the_one_that_there_is(self) -> None:
        messages = [{"role": "system", "content": "You are a house."}, *CONVERSATION[:1]]
        (_, system), _ = texts(TAUGHT_FORM, messages, [TIME])
        assert system.startswith("You are a house.\n\nYou can call functions.")

    def test_in_the_first_question_where_no_system_message_is_read(self) -> None:
        ((role, content),) = texts(TAUGHT_FORM, CONVERSATION[:1], [TIME], has_system=False)
        assert role == "user"
        assert content.startswith("Is it late?\n\nYou can call functions.")

    def test_calls_and_results_are_written_out(self) -> None:
        asked = texts(TAUGHT_FORM, CONVERSATION, [])
        assert asked == [
            ("user", "Is it late?"),
            (
                "assistant",
                f'<tool_call>\n{{"name": "light", "arguments": {ARGUMENTS}}}\n</tool_call>\n'
                '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>',
            ),
            ("user", "<tool_response>\ndone\n</tool_response>\n<tool_response>\n23:10\n</tool_response>"),
        ]

    def test_a_text_before_a_call_stays_before_it(self) -> None:
        message = {"role": "assistant", "content": "I look.", "tool_calls": [TIME_CALL]}
        ((_, content),) = texts(TAUGHT_FORM, [message], [])
        assert content.startswith("I look.<tool_call>")

    def test_words_of_the_form_are_own_and_those_of_others_are_not(self) -> None:
        asked = template_input(TAUGHT_FORM, CONVERSATION, functions([TIME]), has_system=True)
        strangers = [part for message in asked.messages for part in _strangers(message["content"])]
        assert not any("tool_call>" in part or "tool_response>" in part for part in strangers)
        assert {"done", "23:10", ARGUMENTS, "light"} <= set(strangers)


def _strangers(content: MessageText) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part for part in content if isinstance(part, str)]


class TestOfPhi4Mini:
    def test_functions_are_json_beside_the_system_message(self) -> None:
        asked = template_input(PHI_4_MINI_FORM, CONVERSATION[:1], functions([LIGHT, TIME]), has_system=True)
        system = asked.messages[0]
        assert system["role"] == "system"
        assert [each["name"] for each in json.loads(system["tools"])] == ["light", "get_time"]
        rendered = ChatTemplate(shapes.PHI_4_MINI, {"eos_token": ""}).render(list(asked.messages))
        assert f"<|tool|>{system['tools']}<|/tool|><|end|>" in rendered

    def test_calls_are_written_out_and_results_keep_their_role(self) -> None:
        asked = texts(PHI_4_MINI_FORM, CONVERSATION, [])
        assert asked[1:] == [
            (
                "assistant",
                f'<|tool_call|>[{{"name": "light", "arguments": {ARGUMENTS}}}, '
                '{"name": "get_time", "arguments": {}}]<|/tool_call|>',
            ),
            ("tool", "done"),
            ("tool", "23:10"),
        ]


@pytest.mark.parametrize("name", ["QWEN", "MISTRAL"])
def test_a_template_that_knows_tools_gets_them_as_they_are(name: str) -> None:
    template = ChatTemplate(getattr(shapes, name), {"bos_token": "<s>", "eos_token": "</s>"})
    asked = template_input(call_form(template), CONVERSATION, functions(TOOLS), has_system=True)
    rendered = template.render(list(asked.messages), tools=asked.tools)
    assert asked.tools is not None
    assert [tool["function"]["name"] for tool in asked.tools] == ["light", "lights", "get_time"]
    assert '"name": "light", "arguments": {"room": "Küche", "on": true}' in rendered
    assert "23:10" in rendered


@pytest.mark.parametrize("form", [TAUGHT_FORM, PHI_4_MINI_FORM])
@pytest.mark.parametrize(
    "call",
    [
        "light",
        {},
        {"function": {}},
        {"function": {"name": 3, "arguments": "{}"}},
        {"function": {"name": "light", "arguments": "{"}},
        {"function": {"name": "light", "arguments": "[1]"}},
        {"type": "custom", "custom": {"name": "light", "input": "on"}},
    ],
    ids=str,
)
def test_what_is_no_call(form: CallForm, call: Any) -> None:
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    messages: list[Any] = [{"role": "user", "content": "?"}, answer]
    with pytest.raises(BadInputError, match=r"messages\[1\].tool_calls: expected calls"):
        template_input(form, messages, (), has_system=True)
