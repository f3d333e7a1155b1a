"""`edgephi chat`, on the demo bundle: on a real terminal, and from a pipe."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import MAIN, Edgephi, is_one_error
from tests.cli.terminal import CTRL_C, CTRL_D, TAB, UP, Terminal

LIGHT = "turn on the kitchen light"
ON = '{"action": "turn_on", "room": "kitchen", "device": "light"}'
TIMER = "set a timer for ten minutes"
TEN_MINUTES = '{"action": "set_timer", "duration": "10 minutes"}'
SLOW = Path(__file__).parents[1] / "server" / "slow"

OpenChat = Callable[..., Terminal]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Where the history is kept."""
    return tmp_path / "state"


@pytest.fixture
def open_chat(demo_bundle: Path, state: Path) -> OpenChat:
    """Start a chat on a terminal, up to its first prompt; with `delay`, each token takes so many seconds."""

    def call(*options: object, delay: float = 0) -> Terminal:
        environment = {"XDG_STATE_HOME": str(state)}
        if delay:
            environment |= {"PYTHONPATH": str(SLOW), "EDGEPHI_TEST_DELAY": str(delay)}
        terminal = Terminal("chat", demo_bundle, *options, environment=environment)
        terminal.wait_for("> ")
        return terminal

    return call


class TestTerminal:
    def test_a_conversation(self, open_chat: OpenChat) -> None:
        with open_chat() as terminal:
            terminal.enter(LIGHT)
            assert ON in terminal.wait_for("/4096> ")
            terminal.enter("/stats")
            assert "17 of 4096 tokens used" in terminal.wait_for("/4096> ")
            terminal.enter("/reset")
            assert "forgotten" in terminal.wait_for("\n0/4096> ")
            terminal.enter(TIMER)
            assert TEN_MINUTES in terminal.wait_for("/4096> ")
            terminal.type(CTRL_D)
            assert terminal.exit_code() == 0

    def test_the_prompt_says_how_much_of_the_context_is_used(self, open_chat: OpenChat) -> None:
        with open_chat("--context", 600) as terminal:
            terminal.enter(LIGHT)
            terminal.wait_for("\n17/600> ")

    def test_a_text_of_several_lines(self, open_chat: OpenChat) -> None:
        with open_chat() as terminal:
            terminal.enter('"""set a timer')
            terminal.wait_for("....... ")
            terminal.enter('for ten minutes"""')
            assert TEN_MINUTES in terminal.wait_for("> ")

    def test_verbose_shows_the_numbers_of_each_answer(self, open_chat: OpenChat) -> None:
        with open_chat("--verbose") as terminal:
            terminal.enter(LIGHT)
            seen = terminal.wait_for("> ")
            assert "8 tokens read, 8 of them new, first token after " in seen
            terminal.enter(TIMER)
            assert "8 of them new" not in terminal.wait_for("> ")
            assert b"\x1b[2m8 tokens read" in terminal.raw  # dim

    def test_ctrl_c_stops_the_answer_and_not_the_program(self, open_chat: OpenChat) -> None:
        with open_chat(delay=0.4) as terminal:
            terminal.enter(LIGHT)
            terminal.wait_for('{"')
            terminal.type(CTRL_C)
            seen = terminal.wait_for("/4096> ")
            assert "stopped" in seen
            assert "}" not in seen
            terminal.enter("/stats")  # what was said until then is part of the conversation
            assert "0 of 4096" not in terminal.wait_for("tokens used")
            assert terminal.process.poll() is None

    def test_ctrl_c_while_a_prompt_is_read(self, open_chat: OpenChat) -> None:
        with open_chat(delay=3) as terminal:
            terminal.enter(LIGHT)
            terminal.wait_for("\n")
            time.sleep(1)
            terminal.type(CTRL_C)
            terminal.wait_for("stopped")
            terminal.wait_for("/4096> ")
            terminal.enter("/reset")
            terminal.wait_for("\n0/4096> ")

    def test_a_file_that_cannot_be_named_does_not_end_it(self, open_chat: OpenChat) -> None:
        with open_chat() as terminal:
            for name in ("x" * 300, "~no-such-user/x"):
                terminal.enter(f"/save {name}")
                terminal.wait_for("error: ")
                terminal.wait_for("\n0/4096> ")

    def test_ctrl_c_at_the_prompt(self, open_chat: OpenChat) -> None:
        with open_chat() as terminal:
            terminal.type("half a line")
            terminal.wait_for("half a line")
            terminal.type(CTRL_C)  # gives up the line
            terminal.wait_for("\n0/4096> ")
            terminal.enter('"""half a text')
            terminal.wait_for("....... ")
            terminal.type(CTRL_C)  # gives up the text
            terminal.wait_for("\n0/4096> ")
            terminal.type(CTRL_C)
            terminal.wait_for("Ctrl-C again ends the conversation")
            terminal.wait_for("\n0/4096> ")
            terminal.enter("/reset")  # something else in between: it has to be twice
            terminal.wait_for("\n0/4096> ")
            terminal.type(CTRL_C)
            terminal.wait_for("Ctrl-C again ends the conversation")
            terminal.wait_for("\n0/4096> ")
            assert terminal.process.poll() is None
            terminal.type(CTRL_C)
            assert terminal.exit_code() == 0

    def test_a_full_context_says_what_to_do(self, open_chat: OpenChat) -> None:
        with open_chat("--context", 30) as terminal:
            terminal.enter("light " * 60)
            seen = terminal.wait_for("\n0/30> ")
            assert "the context is 30 tokens" in seen
            assert "hint: /reset forgets the conversation; /save FILE keeps it before that" in seen
            terminal.enter(LIGHT)
            terminal.wait_for("\n17/30> ")
            terminal.enter(LIGHT)
            assert "the context of 30 tokens is full: /reset" in terminal.wait_for("/30> ")
            terminal.enter("/reset")
            terminal.wait_for("\n0/30> ")
            terminal.enter(LIGHT)
            assert ON in terminal.wait_for("\n17/30> ")

    def test_an_answer_that_is_cut_off(self, open_chat: OpenChat) -> None:
        with open_chat("--max-tokens", 3) as terminal:
            terminal.enter(LIGHT)
            assert "cut off after 3 tokens; --max-tokens N allows more" in terminal.wait_for("> ")

    def test_the_history_is_kept_and_private(self, open_chat: OpenChat, state: Path) -> None:
        with open_chat() as terminal:
            terminal.enter(LIGHT)
            terminal.wait_for("/4096> ")
            terminal.enter("/quit")
            assert terminal.exit_code() == 0
        file = state / "edgephi" / "chat_history"
        assert file.read_text().splitlines()[-2:] == [LIGHT, "/quit"]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        with open_chat() as terminal:
            terminal.type(UP + UP)
            terminal.wait_for(LIGHT)
            terminal.enter("")
            assert ON in terminal.wait_for("/4096> ")

    def test_no_history(self, open_chat: OpenChat, state: Path) -> None:
        with open_chat("--no-history") as terminal:
            terminal.enter("/reset")
            terminal.wait_for("> ")
            terminal.type(UP)  # of this conversation, there is one
            terminal.wait_for("/reset")
        assert not state.exists()

    def test_a_history_that_cannot_be_written(self, open_chat: OpenChat, state: Path) -> None:
        state.write_text("a file where a folder should be")
        with open_chat() as terminal:
            terminal.enter("/reset")
            assert "forgotten" in terminal.wait_for("\n0/4096> ")

    def test_tab_completes_a_command(self, open_chat: OpenChat) -> None:
        with open_chat() as terminal:
            terminal.type("/he" + TAB)
            terminal.wait_for("/help ")
            terminal.enter("")
            seen = terminal.wait_for("\n0/4096> ")
            for name in (
                "/system TEXT",
                "/retry",
                "/set NAME VALUE",
                "/load FILE",
                "/stats",
                "/quit",
                '"""',
                "Ctrl-C",
            ):
                assert f"\n{name} " in seen
            assert all(len(line) <= 80 for line in seen.splitlines())

    def test_a_command_that_there_is_not(self, open_chat: OpenChat) -> None:
        with open_chat() as terminal:
            terminal.enter("/resett")
            assert "found /resett; did you mean /reset?" in terminal.wait_for("\n0/4096> ")
            terminal.enter("/etc/hosts")  # a text that begins with a slash is for the model
            assert "error" not in terminal.wait_for("\n24/4096> ")

    def test_the_system_message(self, open_chat: OpenChat) -> None:
        with open_chat("--system", "You are a lamp.") as terminal:
            terminal.enter("/system")
            terminal.wait_for("You are a lamp.\n")
            terminal.enter(LIGHT)
            terminal.wait_for("> ")
            terminal.enter("/system You are a thermostat.")
            terminal.wait_for("begun again with that\n0/4096> ")
            terminal.enter("/system -")
            terminal.wait_for("begun again without a system message\n0/4096> ")
            terminal.enter("/system")
            terminal.wait_for("no system message")

    def test_a_terminated_chat_leaves_the_terminal_in_order(self, open_chat: OpenChat) -> None:
        with open_chat() as terminal:
            terminal.process.send_signal(signal.SIGTERM)
            assert terminal.exit_code() == 128 + signal.SIGTERM
            assert b"Traceback" not in terminal.raw


class TestPipe:
    def test_each_line_is_a_turn_and_stdout_has_answers_only(
        self, edgephi: Edgephi, demo_bundle: Path
    ) -> None:
        done = edgephi("chat", demo_bundle, input=f"{LIGHT}\n\n/stats\n/reset\n{TIMER}")
        assert done.returncode == 0
        assert done.stdout == f"{ON}\n{TEN_MINUTES}\n"
        assert "17 of 4096 tokens used" in done.stderr

    def test_turns_are_of_one_conversation(self, edgephi: Edgephi, demo_bundle: Path, tmp_path: Path) -> None:
        saved = tmp_path / "talk.json"
        script = f'{LIGHT}\n"""set a timer\nfor ten minutes"""\n/save {saved}\n/save {saved}\n'
        done = edgephi("chat", demo_bundle, "--system", "You are a lamp.", input=script)
        assert done.returncode == 0, done.stderr
        messages = json.loads(saved.read_text())["messages"]
        assert [message["role"] for message in messages] == [
            "system",
            "user",
            "assistant",
            "user",
            "assistant",
        ]
        assert messages[1]["content"] == LIGHT
        assert messages[3]["content"] == "set a timer\nfor ten minutes"
        assert [messages[2]["content"], messages[4]["content"]] == done.stdout.splitlines()

    def test_quit_ends_it(self, edgephi: Edgephi, demo_bundle: Path) -> None:
        assert edgephi("chat", demo_bundle, input=f"/quit\n{LIGHT}\n").stdout == ""

    def test_the_engine_is_named_once(self, edgephi: Edgephi, demo_bundle: Path) -> None:
        done = edgephi("chat", demo_bundle, input=f"{LIGHT}\n{TIMER}\n")
        assert re.fullmatch(r"onnxruntime-genai [\d.]+ on cpu\n", done.stderr)

    def test_a_seed_draws_the_same_again(self, edgephi: Edgephi, demo_bundle: Path) -> None:
        def draw(seed: int, top_p: float = 1) -> str:
            options = ("--temperature", 30, "--seed", seed, "--top-p", top_p, "--max-tokens", 8)
            return edgephi("chat", demo_bundle, *options, input=LIGHT).stdout

        assert draw(1) == draw(1)
        assert len({draw(seed) for seed in (1, 2, 3)}) > 1
        assert draw(1, 1e-6) == draw(2, 1e-6)  # the most likely token alone

    def test_a_conversation_saved_to_read(self, edgephi: Edgephi, demo_bundle: Path, tmp_path: Path) -> None:
        saved = tmp_path / "talk.md"
        done = edgephi("chat", demo_bundle, input=f"{LIGHT}\n/save {saved}\n")
        assert saved.read_text() == f"## User\n\n{LIGHT}\n\n## Assistant\n\n{ON}\n"
        assert f"2 messages written to {saved}" in done.stderr
        assert list(tmp_path.iterdir()) == [saved]

    @pytest.mark.parametrize("name", ["~no-such-user/talk.json", "a\0b"])
    def test_a_name_that_is_no_file(self, edgephi: Edgephi, demo_bundle: Path, name: str) -> None:
        assert is_one_error(edgephi("chat", demo_bundle, input=f"/save {name}\n"), 2)

    def test_a_text_that_is_not_ended(self, edgephi: Edgephi, demo_bundle: Path) -> None:
        done = edgephi("chat", demo_bundle, input='"""\nset a timer\nfor ten minutes')
        assert done.stdout == f"{TEN_MINUTES}\n"

    def test_nothing_is_kept(self, edgephi: Edgephi, demo_bundle: Path, state: Path) -> None:
        environment = {**os.environ, "XDG_STATE_HOME": str(state)}
        assert edgephi("chat", demo_bundle, input=LIGHT, env=environment).returncode == 0
        assert not state.exists()

    @pytest.mark.parametrize(
        ("text", "exit_code", "error"),
        [
            ("light " * 60, 3, "error: the prompt has 64 tokens"),
            ("/sats", 2, "error: expected a command, found /sats"),
            ("/save", 2, "error: expected a file to write to"),
        ],
        ids=["past the context", "unknown command", "missing argument"],
    )
    def test_an_error_does_not_end_it(
        self, edgephi: Edgephi, demo_bundle: Path, text: str, exit_code: int, error: str
    ) -> None:
        done = edgephi("chat", demo_bundle, "--context", 40, input=f"{text}\n{LIGHT}\n")
        assert (done.returncode, done.stdout) == (exit_code, f"{ON}\n")
        assert error in done.stderr
        assert "hint: " in done.stderr

    def test_the_exit_code_is_that_of_the_first_error(self, edgephi: Edgephi, demo_bundle: Path) -> None:
        lines = ["light " * 60, "/sats", "/quit", LIGHT]
        done = edgephi("chat", demo_bundle, "--context", 40, input="\n".join(lines))
        assert (done.returncode, done.stdout, done.stderr.count("error: ")) == (3, "", 2)

    def test_a_file_that_exists_is_not_overwritten(
        self, edgephi: Edgephi, demo_bundle: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "kept").write_text("precious")
        done = edgephi("chat", demo_bundle, input=f"/save {tmp_path / 'kept'}\n")
        assert is_one_error(done, 2)
        assert (tmp_path / "kept").read_text() == "precious"

    def test_a_file_that_cannot_be_written(self, edgephi: Edgephi, demo_bundle: Path, tmp_path: Path) -> None:
        done = edgephi("chat", demo_bundle, input=f"/save {tmp_path}/none/talk.json\n")
        assert is_one_error(done, 4)
        assert list(tmp_path.iterdir()) == []

    def test_bytes_that_are_no_text(self, demo_bundle: Path) -> None:
        command = [sys.executable, "-c", MAIN, "chat", str(demo_bundle)]
        done = subprocess.run(command, input=b"\xff\xfe\n", capture_output=True, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith(b"error: expected UTF-8 text as message")

    def test_no_such_bundle(self, edgephi: Edgephi, tmp_path: Path) -> None:
        assert is_one_error(edgephi("chat", tmp_path / "none", input=LIGHT), 4)
