"""What `/retry`, `/load`, `/set` and `/exit` of `edgephi chat` do, and how its answers are shown."""

import json
from pathlib import Path
from typing import Any

import pytest

import edgephi.runtime
from edgephi.bundle.manifest import read_manifest
from edgephi.cli.show.lines.columns import columns_of
from edgephi.cli.terminal.saved_chat import read_messages
from edgephi.errors import UsageError
from edgephi.runtime.session import Options
from tests.chat.tools.functions import TOOLS
from tests.cli.conftest import Edgephi, is_one_error
from tests.cli.terminal import Terminal

LIGHT = "turn on the kitchen light"
ON = '{"action": "turn_on", "room": "kitchen", "device": "light"}'
TIMER = "set a timer for ten minutes"
TEN_MINUTES = '{"action": "set_timer", "duration": "10 minutes"}'


@pytest.fixture(scope="module")
def chat(edgephi: Edgephi, demo_bundle: Path) -> Edgephi:
    """Pipe lines into a chat, with options before them."""

    def call(*lines: str, options: tuple[object, ...] = ()) -> object:
        return edgephi("chat", demo_bundle, *options, input="\n".join(lines))

    return call  # type: ignore[return-value]


class TestRetry:
    def test_the_last_message_is_answered_again_in_its_place(self, chat: Edgephi, tmp_path: Path) -> None:
        saved = tmp_path / "talk.json"
        done = chat(LIGHT, TIMER, "/retry", "/retry", f"/save {saved}")
        assert done.stdout == f"{ON}\n" + f"{TEN_MINUTES}\n" * 3
        messages = json.loads(saved.read_text())["messages"]
        assert [message["content"] for message in messages] == [LIGHT, ON, TIMER, TEN_MINUTES]

    def test_the_context_in_use_is_that_of_one_answer(self, chat: Edgephi) -> None:
        once, thrice = chat(LIGHT, "/stats"), chat(LIGHT, "/retry", "/retry", "/stats")
        assert "17 of 4096 tokens used" in once.stderr
        assert "17 of 4096 tokens used" in thrice.stderr

    def test_a_message_that_failed_is_tried_again_and_no_answer_is_lost(
        self, chat: Edgephi, tmp_path: Path
    ) -> None:
        saved = tmp_path / "talk.json"
        done = chat(LIGHT, "light " * 60, "/retry", f"/save {saved}", options=("--context", 40))
        assert done.stderr.count("error: the prompt has ") == 2
        assert len(json.loads(saved.read_text())["messages"]) == 2

    def test_with_other_settings_it_is_another_answer(self, chat: Edgephi) -> None:
        done = chat(LIGHT, "/set temperature 30", "/set seed 1", "/set max-tokens 8", "/retry")
        first, *others = done.stdout.split("\n", 1)
        assert first == ON
        assert others[0].rstrip("\n") != ON

    @pytest.mark.parametrize("before", [(), (LIGHT, "/reset"), (LIGHT, "/system -")])
    def test_there_must_be_a_message(self, chat: Edgephi, before: tuple[str, ...]) -> None:
        done = chat(*before, "/retry")
        assert done.returncode == UsageError.exit_code
        assert "error: expected a message to answer again, found none so far\n" in done.stderr


class TestLoad:
    def test_a_saved_conversation_goes_on(self, chat: Edgephi, tmp_path: Path) -> None:
        saved, again = tmp_path / "talk.json", tmp_path / "again.json"
        chat(LIGHT, f"/save {saved}", options=("--system", "You are a lamp."))
        done = chat(f"/load {saved}", "/system", TIMER, f"/save {again}")
        assert done.stdout == f"{TEN_MINUTES}\n"
        assert "3 messages read" in done.stderr
        assert "You are a lamp." in done.stderr
        before, after = (json.loads(file.read_text())["messages"] for file in (saved, again))
        assert after[:3] == before
        assert len(after) == 5

    def test_its_last_message_can_be_answered_again(self, chat: Edgephi, tmp_path: Path) -> None:
        saved = tmp_path / "talk.json"
        chat(LIGHT, TIMER, f"/save {saved}")
        assert chat(f"/load {saved}", "/retry").stdout == f"{TEN_MINUTES}\n"

    @pytest.mark.parametrize("tools", [True, False])
    def test_one_with_calls_goes_on_too(self, demo_bundle: Path, tmp_path: Path, tools: bool) -> None:
        call = {"id": "a", "type": "function", "function": {"name": "light", "arguments": '{"on": true}'}}
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": LIGHT},
            {"role": "assistant", "content": None, "tool_calls": [call, call]},
            {"role": "tool", "tool_call_id": "a", "content": "done"},
            {"role": "tool", "tool_call_id": "a", "content": "done"},
            {"role": "assistant", "content": ON},
        ]
        (tmp_path / "talk.json").write_text(json.dumps(messages))
        talk = edgephi.runtime.load(demo_bundle).chat(tools=TOOLS if tools else ())
        talk.resume(read_messages(tmp_path / "talk.json"))
        assert talk.messages == [{**each, "content": each["content"] or ""} for each in messages]
        used = talk.context_used
        list(talk.say(TIMER, Options(max_tokens=3)))
        assert talk.context_used > used
        again = edgephi.runtime.load(demo_bundle).chat()
        again.resume(talk.messages)
        assert again.messages == talk.messages
        for broken in (messages[:3], messages[:1] + messages[2:], [*messages[:4], *messages[2:]]):
            with pytest.raises(UsageError, match="by turns"):
                talk.resume(broken)

    def test_messages_alone_do_too(self, chat: Edgephi, tmp_path: Path) -> None:
        messages = [{"role": "user", "content": LIGHT}, {"role": "assistant", "content": ON}]
        (tmp_path / "talk.json").write_text(json.dumps(messages))
        assert "2 messages read" in chat(f"/load {tmp_path}/talk.json").stderr

    @pytest.mark.parametrize(
        ("text", "exit_code"),
        [
            ("", 4),
            ("[", 4),
            ("[" * 100_000, 4),
            ("{}", 4),
            ('[{"role": "user"}]', 4),
            ('[{"role": "user", "content": ["text"]}]', 4),
            ('[{"role": "user", "content": "hi"}]', 2),
            ('[{"role": "owner", "content": "hi"}, {"role": "assistant", "content": "hi"}]', 2),
            ("\xff", 4),
        ],
    )
    def test_what_is_no_conversation_changes_nothing(
        self, chat: Edgephi, tmp_path: Path, text: str, exit_code: int
    ) -> None:
        (tmp_path / "talk.json").write_bytes(text.encode("latin-1"))
        done = chat(LIGHT, f"/load {tmp_path}/talk.json", "/retry")
        assert done.returncode == exit_code
        assert done.stdout == f"{ON}\n" * 2
        assert done.stderr.count("error: ") == 1

    @pytest.mark.parametrize("argument", ["", " nowhere.json", " /"])
    def test_there_must_be_a_file(self, chat: Edgephi, argument: str) -> None:
        assert is_one_error(chat(f"/load{argument}"), UsageError.exit_code)


class TestSet:
    def test_alone_it_shows_every_setting(self, chat: Edgephi) -> None:
        shown = dict(
            line.split(maxsplit=1) for line in chat("/set", options=("--top-p", 0.5)).stderr.splitlines()
        )
        assert shown["temperature"] == "0"
        assert shown["top-p"] == "0.5"
        assert shown["seed"] == "as by default"

    def test_a_setting_holds_from_then_on(self, chat: Edgephi) -> None:
        done = chat(LIGHT, "/set max-tokens 2", LIGHT, "/set max_tokens -", LIGHT)
        first, cut, last = done.stdout.splitlines()
        assert first == last == ON
        assert ON.startswith(cut)
        assert len(cut) < len(ON)

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ("temprature 1", "expected a setting, found 'temprature'; did you mean temperature?"),
            ("logprobs 1", "expected a setting, found 'logprobs'"),
            ("temperature hot", "temperature: expected a number, found 'hot'"),
            ("seed 1.5", "seed: expected a whole number, found '1.5'"),
            ("temperature -1", "expected a temperature from 0 to 100, found -1.0"),
            ("temperature", "temperature: expected a number, found ''"),
        ],
    )
    def test_what_makes_no_sense_changes_nothing(self, chat: Edgephi, argument: str, message: str) -> None:
        done = chat("/set", f"/set {argument}", "/set")
        before, after = done.stderr.split(f"error: {message}")
        assert done.returncode == UsageError.exit_code
        assert after.split("\n", 2)[2] == before


def test_exit_ends_it(chat: Edgephi) -> None:
    assert chat("/exit", LIGHT).stdout == ""


class TestConversation:
    """What the commands ask of `Conversation`."""

    def test_what_is_taken_back_is_the_question(self, demo_bundle: Path) -> None:
        talk = edgephi.runtime.load(demo_bundle).chat()
        assert talk.take_back() is None
        for question in (LIGHT, TIMER):
            list(talk.say(question))
        assert talk.take_back() == TIMER
        used = talk.context_used
        assert talk.take_back() == LIGHT
        assert talk.take_back() is None
        assert used > talk.context_used == 0

    def test_one_that_is_resumed_has_the_same_next_answer(self, demo_bundle: Path) -> None:
        session = edgephi.runtime.load(demo_bundle)
        first, second = session.chat("You are a lamp."), session.chat()
        list(first.say(LIGHT))
        second.resume(first.messages)
        assert second.system == "You are a lamp."
        assert "".join(second.say(TIMER)) == "".join(first.say(TIMER))
        assert second.messages == first.messages


def test_answers_are_broken_between_words_on_a_terminal_only(
    edgephi: Edgephi, demo_bundle: Path, tmp_path: Path
) -> None:
    stops = read_manifest(demo_bundle).chat.stop_token_ids
    endless = [word for token in stops for word in ("--logit-bias", f"{token}=-100")]
    options = ("--temperature", 1, "--seed", 5, "--max-tokens", 200, *endless)
    piped = edgephi("chat", demo_bundle, *options, input=LIGHT).stdout
    assert max(map(len, piped.splitlines())) > 200
    with Terminal("chat", demo_bundle, *options, environment={"XDG_STATE_HOME": str(tmp_path)}) as terminal:
        terminal.wait_for("> ")
        terminal.enter(LIGHT)
        answer = terminal.wait_for("\ncut off ").removesuffix("\ncut off ").removeprefix(LIGHT + "\n")
    assert answer.split() == piped.split()
    assert all(columns_of(line) <= 80 or " " not in line for line in answer.splitlines())
