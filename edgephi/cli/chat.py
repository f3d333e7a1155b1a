"""`edgephi chat`: a conversation with a bundle, in the terminal or from a pipe."""

import contextlib
import io
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from edgephi.cli.argument_types import ReadPath
from edgephi.cli.options import (
    answer_options,
    bundle_argument,
    crops_option,
    device_context_option,
    provider_option,
    switched_adapter_option,
)
from edgephi.cli.sampling_options import sampling_options
from edgephi.cli.show.say import say
from edgephi.cli.system_message import system_message
from edgephi.cli.terminal.chat_commands import (
    COMMANDS,
    Chat,
    Quit,
    engine_text,
    error_text,
)
from edgephi.cli.terminal.chat_input import ReadLine, TerminalLines, history_file, piped_lines, read_message
from edgephi.cli.terminal.chat_tools import read_tools
from edgephi.cli.terminal.turn import Watch, say_beside, take_turn
from edgephi.errors import EdgephiError, UsageError

if TYPE_CHECKING:
    from edgephi.runtime.answer import Answer


@click.command(no_args_is_help=True)
@bundle_argument
@crops_option
@answer_options
@sampling_options
@device_context_option
@provider_option
@switched_adapter_option
@click.option(
    "--tools",
    type=ReadPath(),
    metavar="FILE",
    help="Functions that the model may call, as JSON: a list as OpenAI's API takes it. You give the results.",
)
@click.option("--verbose", is_flag=True, help="Show the numbers of each answer below it.")
@click.option("--no-history", is_flag=True, help="Neither read nor keep the lines that are typed.")
def chat(
    bundle: Path,
    *,
    crops: int | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float,
    top_p: float,
    seed: int | None,
    sampling: dict[str, Any],
    context: int | None,
    provider: str | None,
    adapter: str | None,
    tools: Path | None,
    verbose: bool,
    no_history: bool,
) -> None:
    """Talk with a bundle.

    In a terminal: /help shows what can be typed, Ctrl-C stops an answer. From a pipe, each line is a message,
    and standard output gets the answers and nothing else. After an error the next message is read, and the
    exit code tells of the first one. What has been said is kept computed, so that each turn costs the new
    words only.
    """
    system = system_message(system)
    import edgephi.runtime
    from edgephi.bundle.switched_adapter import model_name
    from edgephi.cli.show.progress import step
    from edgephi.runtime.options import Options

    if sys.stdin is None:
        raise UsageError(
            "expected messages on standard input, found it closed", hint="type them, or pipe them in"
        )
    if isinstance(sys.stdin, io.TextIOWrapper):  # bytes that are no text get a message of ours
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    options = Options(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, crops=crops, **sampling
    )
    may_call = () if tools is None else read_tools(tools)
    at_terminal = sys.stdin.isatty()
    with step("load", 0) if at_terminal else contextlib.nullcontext():
        session = edgephi.runtime.load(
            bundle,
            context=context,
            provider=provider,
            adapter=adapter,
            warn=lambda text: say(f"warning: {text}", err=True),
        )
        session.open_ahead()
    talk = Chat(session, session.chat(system, tools=may_call), options)
    if at_terminal:
        history = None if no_history else history_file()
        name = model_name(session.manifest.name, session.adapter)
        say_beside(f"{name}, {engine_text(talk)}; /help shows more")
        _in_terminal(talk, TerminalLines(history, tuple(COMMANDS)), verbose=verbose)
    else:
        _from_pipe(talk, piped_lines(sys.stdin), verbose=verbose)


def _from_pipe(talk: Chat, read_line: ReadLine, *, verbose: bool) -> None:
    """Answer each message; an error is shown, and the next message is read. Ends with the first error's code.

    Which engine computes is said before the first answer.
    """
    named = False
    exit_code = 0

    def name_engine(_answer: "Answer") -> Watch:
        nonlocal named
        if not named:
            say_beside(engine_text(talk))
            named = True
        return contextlib.nullcontext()

    with contextlib.suppress(EOFError, Quit):
        while True:
            message = read_message(read_line, "")
            try:
                take_turn(
                    talk,
                    message,
                    verbose=verbose,
                    watch=name_engine,
                    read_result=lambda _: read_message(read_line, ""),
                )
            except EdgephiError as error:
                say(error_text(error), err=True)
                exit_code = exit_code or error.exit_code
    click.get_current_context().exit(exit_code)


def _in_terminal(talk: Chat, lines: TerminalLines, *, verbose: bool) -> None:
    """Answer each message; errors are shown, and the conversation goes on."""
    keys = _Keys(lines)
    warned = False
    with keys.handled(), contextlib.suppress(Quit):
        while True:
            prompt = f"{talk.conversation.context_used}/{talk.session.context}> "
            try:
                message = keys.read(prompt)
            except EOFError:
                say(err=True)
                return
            except KeyboardInterrupt:
                say(err=True)
                if keys.gave_up:  # a line or a text that is thrown away
                    warned = False
                elif warned:
                    return
                else:
                    warned = True
                    say_beside("Ctrl-C again ends the conversation, and so does Ctrl-D")
                continue
            warned = False
            try:
                take_turn(
                    talk,
                    message,
                    verbose=verbose,
                    preparing=keys.preparing,
                    watch=keys.stopping,
                    read_result=keys.read,
                )
            except (KeyboardInterrupt, EOFError):
                say(err=True)
                say_beside("stopped")
            except EdgephiError as error:
                say(error_text(error), err=True)


class _Keys:
    """What Ctrl-C means: it stops an answer, or gives up the line that is typed.

    `gave_up` says after a KeyboardInterrupt whether something had been typed.
    """

    def __init__(self, lines: TerminalLines) -> None:
        self._lines = lines
        self._answer: Answer | None = None
        self._reading = False
        self._preparing = False
        self._lines_before = 0
        self.gave_up = False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Be asked about every Ctrl-C in the block."""
        before = signal.signal(signal.SIGINT, self._pressed)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def read(self, prompt: str) -> str:
        """The next message. Raises KeyboardInterrupt when it is given up."""
        self._lines_before = 0

        def read_line(text: str) -> str:
            line = self._lines.read(text)
            self._lines_before += 1
            return line

        self._reading = True
        try:
            return read_message(read_line, prompt)
        finally:
            self._reading = False

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """Let Ctrl-C give up a message before anything of its answer is there."""
        self._preparing = True
        try:
            yield
        finally:
            self._preparing = False

    @contextlib.contextmanager
    def stopping(self, answer: "Answer") -> Iterator[None]:
        """Let Ctrl-C stop this answer."""
        self._answer = answer
        try:
            yield
        finally:
            self._answer = None

    def _pressed(self, _number: int, _frame: FrameType | None) -> None:
        if self._answer is not None:
            self._answer.close()
        elif self._reading:
            self.gave_up = bool(self._lines.typed or self._lines_before)
            raise KeyboardInterrupt
        elif self._preparing:
            raise KeyboardInterrupt
