"""The form in which each model writes calls, read out of its chat template."""

from __future__ import annotations

from typing import Any

import pytest

from edgephi.chat.formats import PHI_3_CHAT, PHI_4_CHAT, PHI_4_MINI_CHAT
from edgephi.chat.template import ChatTemplate
from edgephi.chat.tools.call_form import PHI_4_MINI_FORM, TAUGHT_FORM, CallForm, call_form
from edgephi.chat.tools.conversation import template_input
from tests.chat import shapes

VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}
LIGHT = {"id": "abcdefgh1", "type": "function", "function": {"name": "light", "arguments": '{"on": true}'}}
TIME = {"id": "abcdefgh2", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}


def form_of(template: str) -> CallForm:
    return call_form(ChatTemplate(template, VARIABLES))


@pytest.mark.parametrize(
    ("template", "written"),
    [
        (
            shapes.QWEN,
            '<tool_call>\n{"name": "light", "arguments": {"on": true}}\n</tool_call>\n'
            '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>',
        ),
        (
            shapes.MISTRAL,
            '[TOOL_CALLS] [{"name": "light", "arguments": {"on": true}}, '
            '{"name": "get_time", "arguments": {}}]',
        ),
        (
            shapes.PHI_4_MINI,
            '<|tool_call|>[{"name": "light", "arguments": {"on": true}}, '
            '{"name": "get_time", "arguments": {}}]<|/tool_call|>',
        ),
        (
            shapes.PHI_3,
            '<tool_call>\n{"name": "light", "arguments": {"on": true}}\n</tool_call>\n'
            '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>',
        ),
    ],
    ids=["qwen", "mistral", "phi-4-mini", "phi-3"],
)
def test_two_calls_as_the_model_writes_them(template: str, written: str) -> None:
    form = form_of(template)
    assert form.between is not None
    opened = f'{form.before}light{form.within}{{"on": true}}'
    assert f"{opened}{form.between}get_time{form.within}{{}}{form.after}" == written


def test_a_template_that_takes_one_call_alone() -> None:
    form = form_of(shapes.LLAMA_3)
    assert form.between is None
    assert f"{form.before}light{form.within}{{}}{form.after}" == '{"name": "light", "parameters": {}}'


@pytest.mark.parametrize("name", ["QWEN", "MISTRAL", "LLAMA_3"])
def test_is_what_the_template_makes_of_a_call(name: str) -> None:
    template = ChatTemplate(getattr(shapes, name), VARIABLES)
    form = call_form(template)
    messages: list[Any] = [
        {"role": "user", "content": "Light!"},
        {"role": "assistant", "tool_calls": [LIGHT]},
    ]
    asked = template_input(form, messages, (), has_system=True)
    rendered = template.render(list(asked.messages), answer_follows=False)
    call = f'{form.before}light{form.within}{{"on": true}}'
    assert call in rendered.replace(', "id": "abcdefgh1"', "")


@pytest.mark.parametrize(
    "template",
    [
        shapes.CHATML,
        shapes.LLAMA_2,
        shapes.ZEPHYR,
        shapes.GEMMA,
        shapes.ALPACA,
        shapes.PHI_4,
        shapes.WITH_TOOLS,
    ],
)
def test_models_whose_template_writes_no_calls_are_taught_one(template: str) -> None:
    assert form_of(template) == TAUGHT_FORM


def test_of_the_formats_that_edgephi_writes_itself() -> None:
    assert form_of(PHI_3_CHAT.template) == form_of(PHI_4_CHAT.template) == TAUGHT_FORM
    assert form_of(PHI_4_MINI_CHAT.template) == form_of(shapes.PHI_4_MINI_REASONING) == PHI_4_MINI_FORM


@pytest.mark.parametrize(
    "calls",
    [
        "{{ message.tool_calls | tojson | tojson }}",  # arguments inside of a string
        "{{ message.tool_calls[0].function.arguments | tojson }}({{ message.tool_calls[0].function.name }})",
        "{{ raise_exception('no calls here') }}",
        "{{ nothing.of.the.kind }}",
    ],
)
def test_a_form_that_cannot_be_read_is_not_guessed(calls: str) -> None:
    template = (
        "{% for message in messages %}{% if message.tool_calls %}" + calls + "{% else %}"
        "<|{{ message.role }}|>{{ message.content }}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    assert form_of(template) == TAUGHT_FORM


def test_the_mark_at_which_a_call_has_begun() -> None:
    marks = {name: form_of(getattr(shapes, name)).mark for name in ("QWEN", "MISTRAL", "PHI_4_MINI")}
    assert marks == {"QWEN": "<tool_call>", "MISTRAL": "[TOOL_CALLS]", "PHI_4_MINI": "<|tool_call|>"}
    assert form_of(shapes.LLAMA_3).is_bare
