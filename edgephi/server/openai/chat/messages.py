"""Messages of a conversation, as clients send them and as the chat template takes them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from edgephi.server.openai.request import unsupported
from edgephi.server.refusal import Refusal

UNSUPPORTED_IN_MESSAGES = ("tool_calls", "tool_call_id", "function_call", "audio", "annotations")
ROLES = ("system", "developer", "user", "assistant")


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
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    function_call: Any = None
    audio: Any = None
    annotations: list[Any] | None = None


def plain_message(message: Message, position: int) -> dict[str, str]:
    """A message as the chat template takes it. Raises Refusal."""
    place = f"messages[{position}]"
    for name in UNSUPPORTED_IN_MESSAGES:
        if getattr(message, name):
            raise unsupported(f"{name} is not supported by this server", f"{place}.{name}")
    if message.role not in ROLES:
        raise unsupported(
            f"tools are not supported by this server, found a message of the role {message.role!r}",
            f"{place}.role",
        )
    content = message.content
    if content is None:
        if message.role != "assistant":
            raise Refusal(400, "expected text, found no content", param=f"{place}.content")
        content = message.refusal or ""
    if not isinstance(content, str):
        for part in content:
            if part.type not in ("text", "refusal") or not isinstance(part.text, str):
                raise unsupported(
                    f"expected parts of the type 'text', found {part.type!r}: this model reads text only",
                    f"{place}.content",
                )
        # On lines of their own, as vLLM and llama.cpp join them: the last word of one is none with the next.
        content = "\n".join(part.text for part in content if isinstance(part.text, str))
    return {"role": "system" if message.role == "developer" else message.role, "content": content}
