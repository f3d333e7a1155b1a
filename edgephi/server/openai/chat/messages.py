"""Messages of a conversation, as clients send them and as the chat template takes them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from edgephi.server.openai.request import unsupported
from edgephi.server.refusal import Refusal

UNSUPPORTED_IN_MESSAGES = ("audio", "annotations")
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_RESULT_ROLES = ("tool", "function")  # the second one is what the API called the first at its beginning


class ContentPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a message. Only text is read."""

    type: str
    text: str | UnsetType = UNSET
    image_url: Any = UNSET
    input_audio: Any = UNSET
    file: Any = UNSET
    refusal: Any = UNSET


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message of a conversation. "developer" is what newer models call "system"."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    function_call: dict[str, Any] | None = None
    audio: Any = None
    annotations: list[Any] | None = None
    parsed: Any = None  # what a client made of `content` for itself


def plain_message(message: Message, position: int) -> dict[str, Any]:
    """A message as the session takes it. Raises Refusal."""
    place = f"messages[{position}]"
    for name in UNSUPPORTED_IN_MESSAGES:
        if getattr(message, name):
            raise unsupported(f"{name} is not supported by this server", f"{place}.{name}")
    content = _text(message, place)
    if message.role in _RESULT_ROLES:
        named = {"tool_call_id": message.tool_call_id, "name": message.name}
        return {"role": "tool", "content": content, **{key: text for key, text in named.items() if text}}
    calls = _calls(message)
    if calls:
        if message.role != "assistant":
            raise Refusal(
                400,
                f"expected calls in a message of the assistant, found them in one of the {message.role}",
                param=f"{place}.tool_calls",
            )
        return {"role": message.role, "content": content, "tool_calls": calls}
    return {"role": "system" if message.role == "developer" else message.role, "content": content or ""}


def _text(message: Message, place: str) -> str | None:
    """The text of a message: None for one that has calls alone."""
    content = message.content
    if content is None:
        if message.role != "assistant":
            raise Refusal(400, "expected text, found no content", param=f"{place}.content")
        return message.refusal
    if isinstance(content, str):
        return content
    for part in content:
        if part.type not in ("text", "refusal") or not isinstance(part.text, str):
            raise unsupported(
                f"expected parts of the type 'text', found {part.type!r}: this model reads text only",
                f"{place}.content",
            )
    # On lines of their own, as vLLM and llama.cpp join them: the last word of one is none with the next.
    return "\n".join(part.text for part in content if isinstance(part.text, str))


def _calls(message: Message) -> list[dict[str, Any]]:
    """The calls in a message, in the newer words of the API."""
    if message.function_call:
        return [{"id": "", "type": "function", "function": message.function_call}]
    return list(message.tool_calls or ())
