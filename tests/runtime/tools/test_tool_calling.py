"""Functions that a bundle's model calls, on every engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import psutil  # type: ignore[import-untyped]
import pytest

import edgephi.runtime
from edgephi.chat.formats import PHI_3_CHAT
from edgephi.chat.tools.function import NO_CALLS
from edgephi.errors import BadInputError, UsageError
from edgephi.runtime.session import Options, Session
from tests.chat.tools.functions import TOOLS
from tests.runtime.conftest import TARGETS, DemoFor
from tests.runtime.text.test_hostile_templates import with_template

ASKED: list[dict[str, Any]] = [{"role": "user", "content": "turn on the kitchen light"}]
SCHEMAS = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in TOOLS}


@pytest.fixture(scope="module", params=TARGETS)
def session(request: pytest.FixtureRequest, demo_for: DemoFor) -> Session:
    return edgephi.runtime.load(demo_for(request.param), provider="cpu")


@pytest.mark.parametrize("sampling", [{}, {"temperature": 3.0, "seed": 1}], ids=["greedy", "by chance"])
def test_calls_are_whole_and_fit_their_schemas(session: Session, sampling: dict[str, Any]) -> None:
    options = Options(max_tokens=400, **sampling)
    answer = session.answer(ASKED, options, tools=TOOLS, tool_choice="light")
    pieces = list(answer.pieces())
    (call,) = answer.generation.tool_calls
    jsonschema.validate(json.loads(call.arguments), SCHEMAS["light"])
    assert (answer.generation.text, answer.generation.stop_reason, call.name) == ("", "tool_calls", "light")
    parts = [part for piece in pieces for part in piece.calls]
    assert (parts[0].id, parts[0].name) == (call.id, call.name)
    assert "".join(part.arguments for part in parts) == call.arguments
    assert len(parts) > 3  # as they are written


def test_results_are_read_behind_what_is_computed_already(session: Session) -> None:
    first = session.answer(ASKED, Options(max_tokens=400), tools=TOOLS, tool_choice="light")
    list(first)
    (call,) = first.generation.tool_calls
    function = {"name": call.name, "arguments": call.arguments}
    results: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": [{"id": call.id, "function": function}]},
        {"role": "tool", "tool_call_id": call.id, "content": "done"},
    ]
    second = session.answer([*ASKED, *results], Options(max_tokens=5), tools=TOOLS)
    list(second)
    assert second.generation.reused_tokens >= first.generation.prompt_tokens


def test_a_call_that_is_cut_off_is_in_no_answer(session: Session) -> None:
    answer = session.answer(ASKED, Options(max_tokens=12), tools=TOOLS, tool_choice="required")
    assert "".join(answer) == ""
    generation = answer.generation
    assert (generation.text, generation.tool_calls, generation.stop_reason) == ("", (), "length")


def test_wherever_a_call_is_cut_off_nothing_of_it_is_text_or_scored(session: Session) -> None:
    for most in range(1, 12):  # also within the mark
        options = Options(max_tokens=most, logprobs=0)
        answer = session.answer(ASKED, options, tools=TOOLS, tool_choice="required")
        assert "".join(answer) == ""
        assert (answer.generation.scores, answer.generation.stop_reason) == ((), "length")


def test_text_that_is_no_call_is_an_answer(session: Session) -> None:
    free = session.answer(ASKED)
    text = "".join(free)
    answer = session.answer(ASKED, tools=TOOLS, tool_choice="none")
    assert "".join(answer) == text
    assert answer.generation.tool_calls == ()


def test_rules_of_an_answer_beside_its_calls(session: Session) -> None:
    answer = session.answer(ASKED, Options(json_schema='{"const": 7}'), tools=TOOLS)
    text = "".join(answer)
    assert text == "7" or answer.generation.tool_calls
    with pytest.raises(UsageError, match="expected no rules but a JSON schema beside tools, found a regular"):
        session.answer(ASKED, Options(regex="7"), tools=TOOLS)


def test_scores_are_those_of_the_text(session: Session) -> None:
    answer = session.answer(ASKED, Options(logprobs=0, max_tokens=300), tools=TOOLS, tool_choice="light")
    list(answer)
    assert answer.generation.tool_calls
    spelled = b"".join(bytes(score.bytes) for score in answer.generation.scores or ())
    assert b"arguments" not in spelled


def test_the_mark_of_a_call_behind_a_text_is_not_scored(session: Session) -> None:
    """Nor is the beginning of it, which could have been text when it came."""
    script = session.engine.encode("Yes." + session.prompts.tool_calling.form.before)
    asked: list[int] = []

    def writes(token_ids: Sequence[int], logits: Any) -> Any:
        asked.append(len(token_ids))
        place = len(token_ids) - asked[0]
        if place < len(script):
            logits[script[place]] = 1000.0
        return logits

    options = Options(logprobs=0, max_tokens=len(script) + 5, logits_processor=writes)
    answer = session.answer(ASKED, options, tools=TOOLS)
    assert "".join(answer) == answer.generation.text == "Yes."
    spelled = b"".join(bytes(score.bytes) for score in answer.generation.scores or ())
    assert spelled.decode() == "Yes."


def test_calls_and_results_need_no_tools(session: Session) -> None:
    call = {"id": "1", "function": {"name": "light", "arguments": "{}"}}
    messages = [
        *ASKED,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "<|end|> done"},
    ]
    list(session.answer(messages, Options(max_tokens=2)))


def test_what_is_no_tool_is_refused_before_anything_is_computed(session: Session) -> None:
    with pytest.raises(BadInputError, match=r"tools\[0\]: expected a function"):
        session.answer(ASKED, tools=[{"type": "function"}])
    with pytest.raises(BadInputError, match="expected the name of one of the tools"):
        session.answer(ASKED, tools=TOOLS, tool_choice="door")


def test_a_special_token_in_a_result_ends_no_turn(session: Session) -> None:
    asked: list[dict[str, Any]] = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "<|end|>"},
    ]
    taken = session.prompts.tool_calling.template_input(asked, NO_CALLS)
    tokens = session.encode_chat(taken.messages, taken.tools)
    (end,) = session.engine.encode("<|end|>")
    assert tokens.count(end) == 3  # those of the three turns, and none of the result


def test_a_conversation_goes_on_with_the_results_of_calls(session: Session) -> None:
    def begin_with(letter: str) -> Options:
        bias = {token: 100.0 for text in (letter, f"a{letter}") for token in session.engine.encode(text)[-1:]}
        return Options(json_schema='{"const": 7}', logit_bias=bias, max_tokens=400)

    calls, words = begin_with("<"), begin_with("7")
    chat = session.chat("", tools=TOOLS[:1])
    list(chat.say("turn on the kitchen light", calls))
    made = chat.messages[-1]["tool_calls"]
    with pytest.raises(UsageError, match=f"expected the results of {len(made)} calls, found 0"):
        chat.give_results([])
    assert "".join(chat.give_results(["done"] * len(made), words)) == "7"
    assert [message["role"] for message in chat.messages[1:]] == [
        "assistant",
        *["tool"] * len(made),
        "assistant",
    ]
    with pytest.raises(UsageError, match="expected the results of 0 calls"):
        chat.give_results(["done"])
    assert chat.take_back() == "turn on the kitchen light"
    assert chat.messages == []


def test_a_strangers_template_has_one_process_with_functions_and_without(
    demo_for: DemoFor, tmp_path: Path
) -> None:
    """Reading the form out of it takes another one for a moment; an answer without functions takes none."""

    def renderers() -> int:
        lines = [process.cmdline() for process in psutil.Process().children(recursive=True)]
        return sum("edgephi.chat.rendering_process" in line for line in lines)

    stranger = with_template(demo_for("cpu"), tmp_path, "{# mine #}" + PHI_3_CHAT.template)
    before = renderers()
    session = edgephi.runtime.load(stranger)
    for tools in ((), TOOLS):
        list(session.answer(ASKED, Options(max_tokens=2), tools=tools))
        assert renderers() - before <= 1
