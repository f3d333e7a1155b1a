"""What a response is asked to follow: messages, calls of functions and their results.

Clients send back what they were told, with members of all kinds: those that say nothing to a model are not
looked at. A kind of item or part that is not offered is refused by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from edgephi.server.images.asked import AskedImages
from edgephi.server.images.parts import crops_of, joined, parts_or_text
from edgephi.server.openai.request import unsupported
from edgephi.server.refusal import Refusal

_TEXTS = ("input_text", "output_text", "text")


class InputPart(msgspec.Struct, frozen=True):
    """A part of a message or of a result: text or, in a user's message for a model that sees, an image."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None


class InputItem(msgspec.Struct, frozen=True):
    """A message (which need not say that it is one), a call of a function, or the result of a call."""

    type: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None


def messages_of(given: str | Sequence[InputItem], images: AskedImages) -> tuple[dict[str, Any], ...]:
    """The messages of an input; `images` takes those that are in it. Raises Refusal."""
    if isinstance(given, str):
        return ({"role": "user", "content": given},)
    messages: list[dict[str, Any]] = []
    for place, item in enumerate(given):
        kind = item.type or ("message" if item.role else None)
        if kind == "message":
            messages.append(_message(item, f"input[{place}]", images))
        elif kind == "function_call":
            _add_call(messages, item, f"input[{place}]")
        elif kind == "function_call_output":
            text = _text(item.output, f"input[{place}].output")
            messages.append({"role": "tool", "content": text, "tool_call_id": item.call_id or ""})
        else:
            raise unsupported(
                f"items of the type {kind!r} are not supported by this server", f"input[{place}]"
            )
    return tuple(messages)


def _message(item: InputItem, place: str, images: AskedImages) -> dict[str, Any]:
    if item.role is None:
        raise Refusal(400, "expected a role, found none", param=f"{place}.role")
    if item.role == "user" and isinstance(item.content, list):
        parts = [
            _part(part, f"{place}.content[{number}]", images) for number, part in enumerate(item.content)
        ]
        return {"role": "user", "content": parts_or_text(parts)}
    role = "system" if item.role == "developer" else item.role
    return {"role": role, "content": _text(item.content, f"{place}.content")}


def _add_call(messages: list[dict[str, Any]], item: InputItem, place: str) -> None:
    """Add a call to the message of the assistant that it belongs to: the calls of one answer are items."""
    if not item.name:
        raise Refusal(400, "expected the name of a function, found none", param=f"{place}.name")
    function = {"name": item.name, "arguments": item.arguments or "{}"}
    call = {"id": item.call_id or "", "type": "function", "function": function}
    if messages and messages[-1]["role"] == "assistant":
        messages[-1] = {**messages[-1], "tool_calls": [*messages[-1].get("tool_calls", ()), call]}
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _text(content: str | list[InputPart] | None, place: str) -> str:
    """The text of a message or a result, its parts on lines of their own."""
    if content is None:
        raise Refusal(400, "expected text, found no content", param=place)
    if isinstance(content, str):
        return content
    return joined(_text_of(part, place) for part in content)


def _text_of(part: InputPart, place: str, *others: str) -> str:
    """The text of a part; `others` are the types that could stand there too."""
    text = part.refusal if part.type == "refusal" else part.text
    if part.type not in (*_TEXTS, "refusal") or text is None:
        known = " or ".join(map(repr, ("input_text", *others)))
        raise unsupported(f"expected parts of the type {known}, found {part.type!r}", place)
    return text


def _part(part: InputPart, place: str, images: AskedImages) -> dict[str, Any]:
    """A part of what a user says, in the words of a session."""
    if part.type != "input_image":
        return {"type": "text", "text": _text_of(part, place, "input_image")}
    if part.image_url is None:
        found = "a file's id: none are kept here" if part.file_id else "none"
        raise unsupported(f"expected an image_url, found {found}", f"{place}.image_url")
    crops = crops_of(part.detail, f"{place}.detail")
    return images.at_url(part.image_url, f"{place}.image_url", crops)
