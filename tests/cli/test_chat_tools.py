"""Functions in `edgephi chat`: calls are shown, and a person gives the results."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

import edgephi.runtime
from edgephi.cli.terminal.chat_commands import Chat
from edgephi.cli.terminal.chat_tools import read_tools
from edgephi.cli.terminal.turn import take_turn
from edgephi.errors import EdgephiError
from edgephi.runtime.options import Options
from tests.cli.conftest import Edgephi, is_one_error

SWITCH: dict[str, Any] = {
    "name": "switch",
    "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
}


@pytest.fixture
def talk(demo_bundle: Path) -> Chat:
    """A chat with the demo, which calls before it says anything: its answers in words have no "<"."""
    session = edgephi.runtime.load(demo_bundle)
    bias = {token: 100.0 for text in ("<", "a<") for token in session.engine.encode(text)[-1:]}
    options = Options(json_schema='{"const": 7}', logit_bias=bias, max_tokens=60)
    tools = [{"type": "function", "function": SWITCH}]
    return Chat(session, session.chat("", tools=tools), options)


def take(talk: Chat, message: str, results: list[str]) -> list[str]:
    """One turn; the prompts at which results were asked for. After the last one nobody is there any more."""
    prompts = []

    def read_result(prompt: str) -> str:
        prompts.append(prompt)
        if not results:
            raise EOFError
        return results.pop(0)

    take_turn(talk, message, verbose=False, watch=lambda _: contextlib.nullcontext(), read_result=read_result)
    return prompts


def test_a_call_is_a_line_that_programs_can_read(talk: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EOFError):
        take(talk, "turn it on", [])
    call = json.loads(capsys.readouterr().out.splitlines()[0])
    assert call["name"] == "switch"
    assert isinstance(call["arguments"]["on"], bool)


def test_results_are_asked_for_by_name_and_the_model_goes_on(talk: Chat) -> None:
    with pytest.raises(EOFError):
        take(talk, "turn it on", ["done"] * 16)
    assert talk.conversation.messages == []  # given up in the middle: the question is forgotten
    assert len(talk.answers) >= 2


def test_a_question_that_is_given_up_leaves_what_was_before(talk: Chat) -> None:
    free = Options(json_schema='{"const": 7}', max_tokens=60)
    talk.options, forced = free, talk.options
    take(talk, "how many?", [])
    before = talk.conversation.messages
    talk.options = forced
    with pytest.raises(EOFError):
        take(talk, "turn it on", [])
    assert talk.conversation.messages == before


class TestCommand:
    def test_answers_in_words_are_as_ever(self, edgephi: Edgephi, demo_bundle: Path, tmp_path: Path) -> None:
        file = tmp_path / "tools.json"
        file.write_text(json.dumps([SWITCH]))
        done = edgephi("chat", demo_bundle, "--tools", file, "--max-tokens", 5, input="hello\n")
        assert done.returncode == 0
        assert done.stdout.strip()

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            ("{", "expected tools as JSON"),
            ("{}", "expected a list of tools"),
            ("[]", "expected a list of tools"),
            ('[{"type": "function", "function": {}}]', r"tools\[0\]: expected a name"),
            ("[3]", r"tools\[0\]: expected an object"),
            (b"\xff", "expected UTF-8 text"),
            ("[" * 5000, "expected tools as JSON"),
        ],
        ids=lambda value: repr(value[:20]),
    )
    def test_a_file_without_tools(self, tmp_path: Path, content: str | bytes, found: str) -> None:
        file = tmp_path / "tools.json"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(EdgephiError, match=found):
            read_tools(file)

    def test_no_such_file(self, edgephi: Edgephi, demo_bundle: Path, tmp_path: Path) -> None:
        done = edgephi("chat", demo_bundle, "--tools", tmp_path / "none.json", input="hello\n")
        assert is_one_error(done, 4)
        assert "none.json: No such file" in done.stderr

    def test_tools_as_a_request_has_them(self, tmp_path: Path) -> None:
        file = tmp_path / "tools.json"
        whole = [{"type": "function", "function": SWITCH}]
        for document in ([SWITCH], whole, {"tools": whole}):
            file.write_text(json.dumps(document))
            assert read_tools(file) == whole
