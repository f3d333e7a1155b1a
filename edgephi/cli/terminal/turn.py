"""One turn of `edgephi chat`: a message, the answer as it is written, and the calls of functions in it."""

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgephi.cli.show.say import SaidAnswer, say
from edgephi.cli.terminal.chat_commands import Again, Chat, is_command, numbers, run_command
from edgephi.cli.terminal.chat_tools import call_text
from edgephi.cli.terminal.reading import Reading
from edgephi.cli.terminal.utf8 import checked_utf8
from edgephi.errors import EdgephiError, PastContextError

if TYPE_CHECKING:
    from edgephi.chat.tools.call_reader import ToolCall
    from edgephi.runtime.answer import Answer

Watch = contextlib.AbstractContextManager[None]


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
    images, talk.attached = talk.attached, []
    if is_command(message):
        talk.attached = images
        try:
            say(run_command(talk, message), err=True)
            return
        except Again as again:
            message, images = again.message, talk.asked_images
    talk.asked, talk.asked_images, talk.is_answered = message, images, False

    def ask(reading: Reading) -> "Answer":
        return talk.conversation.say(
            message,
            talk.options,
            images=images,
            on_prefill=reading.show,
            on_image=reading.show_images,
        )

    calls = _answered(talk, ask, verbose=verbose, preparing=preparing, watch=watch)
    while calls:
        try:
            results = [read_result(f"result of {call.name}> ") for call in calls]
        except (KeyboardInterrupt, EOFError):
            talk.conversation.take_back()
            raise

        def go_on(reading: Reading, results: list[str] = results) -> "Answer":
            return talk.conversation.give_results(results, talk.options, on_prefill=reading.show)

        calls = _answered(talk, go_on, verbose=verbose, preparing=preparing, watch=watch)


def _answered(
    talk: Chat,
    ask: "Callable[[Reading], Answer]",
    *,
    verbose: bool,
    watch: "Callable[[Answer], Watch]",
    preparing: "Callable[[], Watch]",
) -> "Sequence[ToolCall]":
    """Show the answer that `ask` gives, and the calls of functions in it, which are given back."""
    reading = Reading()
    said = SaidAnswer(wrapped=True)
    begun = False
    try:
        with preparing():
            answer = ask(reading)
        with watch(answer):
            for piece in answer:
                reading.clear()
                begun = True
                said.add(piece)
    except PastContextError as error:
        fewer = "/set crops 1 has fewer tokens of an image; " if talk.asked_images else ""
        raise PastContextError(
            error.message, hint=f"{fewer}/reset forgets the conversation; /save FILE keeps it before that"
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
