"""The commands of `edgephi chat`: lines such as `/stats`, which are not for the model."""

import difflib
import json
import os
import re
import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.cli.argument_types import URL
from edgephi.cli.output_file import write_output
from edgephi.cli.show.say import error_lines
from edgephi.cli.terminal.chat_settings import changed, settings
from edgephi.cli.terminal.image_line import image_line
from edgephi.cli.terminal.saved_chat import read_messages, saved_messages
from edgephi.errors import EdgephiError, UsageError
from edgephi.runtime.images.in_messages import images_of, text_of

if TYPE_CHECKING:
    from edgephi.runtime.conversation import Conversation
    from edgephi.runtime.generation import Generation
    from edgephi.runtime.images.seen_image import SeenImage
    from edgephi.runtime.options import Options
    from edgephi.runtime.session import Session

_COMMAND = re.compile(r"(/[a-z]+)(?:\s+(.*))?", re.DOTALL)
_WIDTH = 80
_SHOWN_SECONDS = 0.005
_MARKDOWN = (".md", ".markdown")
_NO_SYSTEM = _NO_IMAGE = "-"


@dataclass
class Chat:
    """A conversation with a person: the answers so far, and the files that were written for it.

    `asked` is the last message that was for the model, with `asked_images`, and `is_answered` whether the
    conversation has it. `attached` are images for the next one.
    """

    session: "Session"
    conversation: "Conversation"
    options: "Options"
    asked: str = ""
    is_answered: bool = False
    answers: list["Generation"] = field(default_factory=list)
    saved: set[Path] = field(default_factory=set)
    attached: list["SeenImage"] = field(default_factory=list)
    asked_images: list["SeenImage"] = field(default_factory=list)


class Again(Exception):  # noqa: N818 - it is no error
    """A message is to be answered, as if it had been typed now."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Quit(Exception):  # noqa: N818 - it is no error
    """The person has said that the conversation ends."""


def is_command(text: str) -> bool:
    """Whether a message is a command. A path such as /etc/hosts, and all behind a space, is for the model."""
    return _COMMAND.fullmatch(text.rstrip()) is not None


def run_command(chat: Chat, text: str) -> str:
    """Do what a command says; what it has to say.

    Raises Quit, Again, UsageError, and what reading and writing a file raises.
    """
    found = _COMMAND.fullmatch(text.rstrip())
    assert found is not None  # noqa: S101 - the caller has asked `is_command`
    name, argument = found[1], (found[2] or "").strip()
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        raise UsageError(
            f"expected a command, found {name}" + (f"; did you mean {close[0]}?" if close else ""),
            hint="/help lists the commands; a space before the slash sends it to the model",
        )
    return COMMANDS[name].run(chat, argument)


def _help(_chat: Chat, _argument: str) -> str:
    rows = [
        (f"{name} {command.argument}".strip(), command.help)
        for name, command in COMMANDS.items()
        if command.help
    ]
    rows += [
        ('"""', "begins a text of several lines, and ends it"),
        ("Ctrl-C", "stops an answer; twice on an empty line, it ends all"),
        ("Ctrl-D", "ends the conversation"),
        ("Tab, arrows", "complete a command, edit, and go back to earlier lines"),
    ]
    return "\n".join(f"{name:<16} {text}" for name, text in rows)


def _system(chat: Chat, argument: str) -> str:
    if not argument:
        return chat.conversation.system or "no system message; /system TEXT begins again with one"
    chat.asked, chat.asked_images = "", []
    chat.conversation.reset("" if argument == _NO_SYSTEM else argument)
    return "begun again " + ("without a system message" if argument == _NO_SYSTEM else "with that")


def _reset(chat: Chat, _argument: str) -> str:
    chat.asked, chat.asked_images = "", []
    chat.conversation.reset()
    return "forgotten" + (", but for the system message" if chat.conversation.system else "")


def _image(chat: Chat, argument: str) -> str:
    if argument == _NO_IMAGE:
        chat.attached = []
    elif argument:
        image = chat.session.prompts.images.see(_path(argument), chat.options.crops)
        chat.attached.append(image)
    lines = [image_line(image) for image in chat.attached]
    return "\n".join([*lines, "for the next message" if lines else "no image for the next message"])


def _save(chat: Chat, argument: str) -> str:
    if not argument:
        raise UsageError("expected a file to write to, found none", hint="/save FILE")
    file = _path(argument)
    if os.path.lexists(file) and file.absolute() not in chat.saved:
        raise UsageError(f"{file}: expected a new file, found one that exists", hint="give another name")
    manifest = chat.session.manifest
    messages = chat.conversation.messages
    if file.suffix.lower() in _MARKDOWN:
        text = _markdown(messages)
    else:
        document = {
            "bundle": manifest.name,
            "model": manifest.model.id,
            "messages": saved_messages(messages),
        }
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    write_output(file, text)
    chat.saved.add(file.absolute())
    return f"{len(messages)} messages written to {file}"


def _load(chat: Chat, argument: str) -> str:
    if not argument:
        raise UsageError("expected a file that /save has written, found none", hint="/load FILE")
    chat.conversation.resume(read_messages(_path(argument)))
    messages = chat.conversation.messages
    asked = next((each for each in reversed(messages) if each["role"] == "user"), {"content": ""})
    chat.asked, chat.asked_images = text_of(asked["content"]), images_of([asked])
    chat.is_answered = bool(chat.asked)
    return f"{len(messages)} messages read; what is said next goes on from there"


def _retry(chat: Chat, _argument: str) -> str:
    if not chat.asked:
        raise UsageError("expected a message to answer again, found none so far", hint="type one")
    if chat.is_answered:
        chat.conversation.take_back()
    raise Again(chat.asked)


def _set(chat: Chat, argument: str) -> str:
    name, _, value = argument.partition(" ")
    if not name:
        return "\n".join(f"{name:<20} {value}" for name, value in settings(chat.options))
    chat.options = changed(chat.options, name, value.strip())
    return dict(settings(chat.options))[name.replace("_", "-")]


def _as_a_shell_reads(argument: str) -> str:
    """What quotes and backslashes mean, if no file has them in its name and a shell reads one word."""
    if os.name != "posix" or os.path.lexists(argument.partition("\0")[0]):
        return argument
    try:
        words = shlex.split(argument)
    except ValueError:  # a quote without its end
        return argument
    return words[0] if len(words) == 1 else argument


def _path(argument: str) -> Path:
    """The file that was named, `~` resolved. Raises UsageError for what cannot be one.

    A file that is dropped on a terminal comes quoted, as a shell would have it.
    """
    argument = _as_a_shell_reads(argument)
    if URL.match(argument):
        raise UsageError(
            f"expected a path on this machine, found {argument!r}",
            hint="get it here first, and give its path",
        )
    if "\0" in argument:
        raise UsageError("expected the name of a file, found a zero byte in it", hint="give another name")
    try:
        return Path(argument).expanduser()
    except RuntimeError:
        raise UsageError(
            f"{argument}: expected the home of a user, found none", hint="give another path"
        ) from None


def _markdown(messages: Sequence[Mapping[str, Any]]) -> str:
    """The conversation to read: who speaks is a heading, and what is said stands below it.

    Of images it has the names.
    """
    found = []
    for message in messages:
        images = "".join(f"[{image.name}]\n\n" for image in images_of([message]))
        found.append(f"## {message['role'].capitalize()}\n\n{images}{text_of(message['content'])}\n")
    return "\n".join(found)


def _stats(chat: Chat, _argument: str) -> str:
    used = chat.conversation.context_used
    rows = [
        ("engine", engine_text(chat)),
        ("loaded in", f"{chat.session.load_seconds:.2f} s"),
        ("context", f"{used} of {chat.session.context} tokens used"),
        ("answers", str(len(chat.answers))),
    ]
    if chat.answers:
        rows.append(("the last one", numbers(chat.answers[-1])))
    lines = []
    for name, text in rows:
        lines += textwrap.wrap(text, _WIDTH, initial_indent=f"{name:<14} ", subsequent_indent=" " * 15)
    return "\n".join(lines)


def engine_text(chat: Chat) -> str:
    """Which engine computes, and on what."""
    from edgephi.runtime.adapter import EMULATION_NOTE, is_emulated

    engine = chat.session.engine
    text = f"{engine.name} {engine.version} on {engine.provider}"
    return f"{text}, {EMULATION_NOTE}" if is_emulated(engine.provider) else text


def numbers(generation: "Generation") -> str:
    """The numbers of one answer in one line."""
    computed = generation.prompt_tokens - generation.reused_tokens
    parts = [f"{generation.prompt_tokens} tokens read, {computed} of them new"]
    if generation.image_tokens:
        parts.append(f"{generation.image_tokens} of images")
        if generation.image_seconds > _SHOWN_SECONDS:
            parts[-1] += f", computed in {generation.image_seconds:.2f} s"
    parts += [
        f"first token after {generation.first_token_seconds:.2f} s",
        f"{generation.generated_tokens} written",
    ]
    if generation.decode_tokens_per_second:
        parts[-1] += f" at {generation.decode_tokens_per_second:.1f}/s"
    return ", ".join(parts)


def _quit(_chat: Chat, _argument: str) -> str:
    raise Quit


@dataclass(frozen=True)
class _Command:
    run: Callable[[Chat, str], str]
    help: str = ""  # another name for a command has none
    argument: str = ""


COMMANDS: Mapping[str, _Command] = {
    "/help": _Command(_help, "shows this"),
    "/system": _Command(_system, "begins again with another system message; - is none", "TEXT"),
    "/reset": _Command(_reset, "forgets the conversation"),
    "/image": _Command(_image, "shows the model an image with the next message; - takes it back", "FILE"),
    "/retry": _Command(_retry, "has the last message answered again"),
    "/set": _Command(_set, "changes temperature, seed and so on; alone, it shows them", "NAME VALUE"),
    "/save": _Command(_save, "writes the conversation to a file: JSON, or Markdown for .md", "FILE"),
    "/load": _Command(_load, "goes on with a conversation that /save has written as JSON", "FILE"),
    "/stats": _Command(_stats, "shows the numbers of the last answer, and the context in use"),
    "/quit": _Command(_quit, "ends the conversation, and so does /exit"),
    "/exit": _Command(_quit),
}
"""All commands by name, in the order of the help."""


def error_text(error: EdgephiError) -> str:
    """An error of one turn, as the command line shows errors."""
    return error_lines(error.message, error.hint)
