"""One turn of `edgephi chat`: a message, the answer as it is written, and the calls of functions in it."""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from edgephi.cli.show.say import SaidAnswer, say
from edgephi.cli.terminal.chat_commands import Again, Chat, is_command, numbers, run_command
from edgephi.cli.terminal.chat_tools import call_text
from edgephi.cli.terminal.utf8 import checked_utf8
from edgephi.errors import EdgephiError, PastContextError

if TYPE_CHECKING:
    from edgephi.chat.tools.call_reader import ToolCall
    from edgephi.runtime.answer import Answer
    from edgephi.runtime.work import OnPrefill

Watch = contextlib.AbstractContextManager[None]

_CLEAR_LINE = "\r\x1b[K"
_SHOW_READING_SECONDS = 1.0


def take_turn(
    talk: Chat,
    message: str,
    *,
    verbose: bool,
    watch: "Callable[[Answer], Watch]",
    read_result: Callable[[str], str],
    preparing: "Callable[[], Watch]" = contextlib.nullcontext,
) -> None:
    """Do a command, or have the model answer a message. An empty message is nothing.

    The message is made a prompt inside of `preparing`, and answered inside of `watch`. `read_result` gets the
    result of a call of a function from the person; without it, the question is forgotten.
    """
    checked_utf8(message, "message")
    if not message.strip():
        return
    if is_command(message):
        try:
            say(run_command(talk, message), err=True)
            return
        except Again as again:
            message = again.message
    talk.asked, talk.is_answered = message, False

    def ask(on_prefill: "OnPrefill") -> "Answer":
        return talk.conversation.say(message, talk.options, on_prefill=on_prefill)

    calls = _answered(talk, ask, verbose=verbose, preparing=preparing, watch=watch)
    while calls:
        try:
            results = [read_result(f"result of {call.name}> ") for call in calls]
        except (KeyboardInterrupt, EOFError):
            talk.conversation.take_back()
            raise

        def go_on(on_prefill: "OnPrefill", results: list[str] = results) -> "Answer":
            return talk.conversation.give_results(results, talk.options, on_prefill=on_prefill)

        calls = _answered(talk, go_on, verbose=verbose, preparing=preparing, watch=watch)


def _answered(
    talk: Chat,
    ask: "Callable[[OnPrefill], Answer]",
    *,
    verbose: bool,
    watch: "Callable[[Answer], Watch]",
    preparing: "Callable[[], Watch]",
) -> "Sequence[ToolCall]":
    """Show the answer that `ask` gives, and the calls of functions in it, which are given back."""
    reading = _Reading()
    said = SaidAnswer(wrapped=True)
    begun = False
    try:
        with preparing():
            answer = ask(reading.show)
        with watch(answer):
            for piece in answer:
                reading.clear()
                begun = True
                said.add(piece)
    except PastContextError as error:
        raise PastContextError(
            error.message, hint="/reset forgets the conversation; /save FILE keeps it before that"
        ) from None
    except EdgephiError:
        if begun:  # the error gets a line of its own, and so does the next answer
            said.end()
        raise
    finally:
        reading.clear()
    generation = answer.generation
    if begun or not generation.tool_calls:
        said.end()
    for call in generation.tool_calls:
        say(call_text(call))
    talk.is_answered = True
    talk.answers.append(generation)
    if generation.stop_reason == "closed":
        say_beside("stopped")
    elif generation.stop_reason == "length":
        say_beside(f"cut off after {generation.generated_tokens} tokens; --max-tokens N allows more")
    elif generation.stop_reason == "context":
        say_beside(
            f"the context of {talk.session.context} tokens is full: /reset forgets the conversation, "
            "/save FILE keeps it"
        )
    if verbose:
        say_beside(numbers(generation))
    return generation.tool_calls


def say_beside(text: str) -> None:
    """Say something beside the conversation."""
    say(text, dim=True, err=True)


class _Reading:
    """On a terminal, how much of a long prompt has been read, until the answer begins."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._shown = False
        self._wanted = sys.stderr.isatty() and sys.stdout.isatty()

    def show(self, done: int, total: int) -> None:
        """Take in that so many tokens of a prompt are computed."""
        if self._wanted and time.monotonic() - self._start > _SHOW_READING_SECONDS:
            text = f"reading: {done} of {total} tokens"[: shutil.get_terminal_size().columns - 1]
            click.echo(_CLEAR_LINE + click.style(text, dim=True), err=True, nl=False)
            self._shown = True

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            click.echo(_CLEAR_LINE, err=True, nl=False)
            self._shown = False
